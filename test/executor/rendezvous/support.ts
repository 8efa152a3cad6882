// Ranks as separate processes, on a free loopback port, or as sessions of this process. What is left of processes
// ends with the file, whose tests may run side by side.

import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { fileURLToPath } from 'node:url';
import { afterAll, expect, onTestFinished } from 'vitest';
import { connect as connectSession, type Session } from '../../../executor/rendezvous/session.ts';
import { freePort } from '../../support/freePort.ts';

export { freePort };

const SCRIPT = fileURLToPath(new URL('rank.mjs', import.meta.url));

/** What a rank says of itself, one JSON line each; rank.mjs makes them. */
export interface Line {
  /** Milliseconds since the process started. */
  at: number;
  did?: string;
  doing?: string;
  value?: unknown;
  error?: { code: string; message: string; rank?: number };
  failure?: { code: string; message: string; rank?: number };
}

export class Rank {
  readonly child: ChildProcess;
  readonly lines: Line[] = [];
  /** What it wrote to stderr. */
  log = '';
  readonly ended: Promise<unknown>;
  #text = '';
  #wake: (() => void)[] = [];

  constructor(script: string, env: Record<string, string>) {
    this.child = spawn(process.execPath, [SCRIPT, script], {
      env: { PATH: process.env.PATH!, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.child.stdout!.on('data', (chunk) => this.#read(String(chunk)));
    this.child.stderr!.on('data', (chunk) => {
      this.log += chunk;
    });
    this.ended = once(this.child, 'close').then(() => this.#wakeAll());
  }

  #read(text: string): void {
    const lines = (this.#text + text).split('\n');
    this.#text = lines.pop()!;
    for (const line of lines) this.lines.push(JSON.parse(line));
    this.#wakeAll();
  }

  #wakeAll(): void {
    for (const wake of this.#wake.splice(0)) wake();
  }

  /** The line of this action, once it is over; or of what it is doing, where it says so. */
  async line(action: string): Promise<Line> {
    for (;;) {
      const found = this.lines.find(({ did, doing }) => did === action || doing === action);
      if (found !== undefined) return found;
      const isOver = this.child.exitCode !== null || this.child.signalCode !== null;
      if (isOver) await this.ended;
      if (isOver && !this.lines.some(({ did, doing }) => did === action || doing === action)) {
        throw new Error(`a rank ended without "${action}": ${JSON.stringify(this.lines)} ${this.log}`);
      }
      if (!isOver) await new Promise<void>((resolve) => this.#wake.push(resolve));
    }
  }

  signal(signal: NodeJS.Signals): void {
    this.child.kill(signal);
  }
}

const ranks: Rank[] = [];
const sockets: Socket[] = [];

afterAll(async () => {
  for (const socket of sockets.splice(0)) socket.destroy();
  for (const rank of ranks) rank.signal('SIGKILL');
  await Promise.all(ranks.splice(0).map((rank) => rank.ended));
});

export interface GroupOptions {
  port: number;
  worldSize?: number;
  deadlineMs?: number;
  env?: Record<string, string>;
}

/** Starts one rank that does what the script says; see rank.mjs. */
export function startRank(rank: number, script: string, options: GroupOptions): Rank {
  const { port, worldSize = 2, deadlineMs = 10_000, env = {} } = options;
  const started = new Rank(script, {
    RANK: String(rank),
    WORLD_SIZE: String(worldSize),
    MASTER_ADDR: '127.0.0.1',
    MASTER_PORT: String(port),
    FUSCO_DEADLINE_MS: String(deadlineMs),
    TEST_HEARTBEAT_MS: '50',
    ...env,
  });
  ranks.push(started);
  return started;
}

/** Starts a group, rank 0 first, one script for each rank. */
export async function startGroup(
  scripts: readonly string[],
  options: Partial<GroupOptions> = {},
): Promise<Rank[]> {
  const port = options.port ?? (await freePort());
  return scripts.map((script, rank) =>
    startRank(rank, script, { worldSize: scripts.length, ...options, port }),
  );
}

/** A group whose ranks all live in this process, each with its worker; it ends with the test, which runs alone. */
export async function localGroup(worldSize: number, deadlineMs = 10_000): Promise<Session[]> {
  const address = `127.0.0.1:${await freePort()}`;
  const options = { worldSize, address, deadlineMs, heartbeatMs: 50, logger: () => {} };
  const ranks = Array.from({ length: worldSize }, (_, rank) => rank);
  const group = await Promise.all(ranks.map((rank) => connectSession({ ...options, rank })));
  onTestFinished(() => closeAll(group));
  return group;
}

export async function closeAll(group: readonly Session[]): Promise<void> {
  await Promise.all(group.map((session) => session.close()));
}

/** The error that a session fails with. */
export const failureOf = (session: Session): Promise<Error> =>
  new Promise((resolve) => session.onFailure(resolve));

/** A connection of somebody who is no rank. */
export async function stranger(port: number): Promise<Socket> {
  for (;;) {
    const socket = connect(port, '127.0.0.1');
    sockets.push(socket);
    try {
      await once(socket, 'connect');
      socket.on('error', () => {});
      return socket;
    } catch {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
}

/** The error that an action ended with. */
export async function errorOf(rank: Rank, action: string): Promise<NonNullable<Line['error']>> {
  const line = await rank.line(action);
  expect(line.error, `${action}: ${JSON.stringify(line)}`).toBeDefined();
  return line.error!;
}

/** The value that an action ended with. */
export async function resultOf(rank: Rank, action: string): Promise<unknown> {
  const line = await rank.line(action);
  expect(line.error, action).toBeUndefined();
  return line.value;
}
