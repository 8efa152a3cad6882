// One process per rank on this machine: started together, ended together.

import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { createServer } from 'node:net';
import { constants } from 'node:os';
import { FuscoError } from '../../planner/errors.ts';
import { styleOf } from '../terminal/style.ts';
import { copyLines } from './prefixedLines.ts';

export interface LaunchOptions {
  readonly ranks: number;
  /** The program and its arguments. */
  readonly command: readonly string[];
  /** Port of the rendezvous; a free one if it is undefined. */
  readonly port: number | undefined;
  /** Whether every line of output begins with its rank. */
  readonly prefix: boolean;
  /** Milliseconds between SIGTERM and SIGKILL for the other ranks. */
  readonly graceMs: number;
  /** Receives lines about what the launcher does. */
  say(line: string): void;
}

const LOOPBACK = '127.0.0.1';
const FORWARDED = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/** A port that is currently free. */
async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject).listen(0, LOOPBACK, resolve);
  });
  const { port } = server.address() as { port: number };
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** The variables that torchrun would set, and a secret that no other user of this machine knows. */
function environmentOf(rank: number, ranks: number, port: number, secret: string): NodeJS.ProcessEnv {
  return {
    ...process.env,
    RANK: String(rank),
    WORLD_SIZE: String(ranks),
    LOCAL_RANK: String(rank),
    LOCAL_WORLD_SIZE: String(ranks),
    MASTER_ADDR: LOOPBACK,
    MASTER_PORT: String(port),
    FUSCO_SECRET: secret,
  };
}

/** Adjacent ranks have different colors, if the output shows colors. */
function prefixOf(rank: number, to: NodeJS.WriteStream): string {
  return `${styleOf(to).paint(rank % 2 === 0 ? 'far' : 'near', `[${rank}]`)} `;
}

/** The exit code of a process, as a shell would report it. */
function exitCode(code: number | null, signal: NodeJS.Signals | null): number {
  return signal === null ? (code ?? 0) : 128 + constants.signals[signal];
}

/** The processes of one launch. Each leads a process group, so that a signal also reaches its children. */
class Processes {
  readonly #options: LaunchOptions;
  /** Process groups that may still have processes. */
  readonly #groups = new Set<number>();
  #running = 0;
  #outcome: number | FuscoError = 0;
  #killer: NodeJS.Timeout | undefined;

  constructor(options: LaunchOptions) {
    this.#options = options;
  }

  /** Sends a signal to all running processes. */
  signal(signal: NodeJS.Signals): void {
    for (const group of this.#groups) {
      try {
        process.kill(-group, signal);
      } catch {
        // It has ended in the meantime.
      }
    }
  }

  /** Runs all ranks to their end. Returns the exit code of the first that failed, or 0. */
  async run(port: number, secret: string): Promise<number> {
    const { ranks } = this.#options;
    const ends: Promise<void>[] = [];
    for (let rank = 0; rank < ranks; rank++) {
      ends.push(this.#start(rank, environmentOf(rank, ranks, port, secret)));
    }
    await Promise.all(ends);
    clearTimeout(this.#killer);
    if (this.#outcome instanceof FuscoError) throw this.#outcome;
    return this.#outcome;
  }

  /** Starts one rank. Resolves when it has ended and its output is written. */
  async #start(rank: number, env: NodeJS.ProcessEnv): Promise<void> {
    const { command, prefix } = this.#options;
    const [program, ...args] = command;
    const output = prefix ? 'pipe' : 'inherit';
    const child = spawn(program!, args, { env, detached: true, stdio: ['ignore', output, output] });
    this.#running++;
    if (child.pid !== undefined) this.#groups.add(child.pid);
    const copies = [
      child.stdout && copyLines(child.stdout, process.stdout, prefixOf(rank, process.stdout)),
      child.stderr && copyLines(child.stderr, process.stderr, prefixOf(rank, process.stderr)),
    ];
    await new Promise<void>((resolve) => {
      child.once('error', ({ message }) => {
        this.#running--;
        this.#failed(new FuscoError('E_FILE_NOT_FOUND', `rank ${rank} cannot start: ${message}`));
        resolve();
      });
      child.once('exit', (code, signal) => {
        this.#running--;
        const how = signal === null ? `with code ${code}` : `by ${signal}`;
        if (code !== 0) this.#failed(exitCode(code, signal), `rank ${rank} ended ${how}`);
        resolve();
      });
    });
    // Ends later than the process if a child holds the streams open.
    await Promise.all(copies);
    if (child.pid !== undefined) this.#groups.delete(child.pid);
  }

  /** The first failure decides; the others cannot continue without that rank. */
  #failed(outcome: number | FuscoError, text?: string): void {
    if (this.#outcome !== 0) return;
    this.#outcome = outcome;
    const others = this.#running > 0 ? `; ending the other ${this.#running}` : '';
    if (text !== undefined) this.#options.say(`${text}${others}`);
    this.signal('SIGTERM');
    this.#killer = setTimeout(() => this.signal('SIGKILL'), this.#options.graceMs);
  }
}

/**
 * Starts one process per rank, forwards signals to all of them, and waits for their end.
 *
 * @returns the exit code of the first rank that failed, 128 + signal if a signal ended it; 0 if none failed
 * @throws FuscoError E_FILE_NOT_FOUND if the program cannot be started
 */
export async function launch(options: LaunchOptions): Promise<number> {
  const processes = new Processes(options);
  const forward = (signal: NodeJS.Signals) => processes.signal(signal);
  const atExit = () => processes.signal('SIGTERM');
  for (const signal of FORWARDED) process.on(signal, forward);
  process.on('exit', atExit);
  // Every rank may wait for the same stream to drain.
  for (const stream of [process.stdout, process.stderr]) stream.setMaxListeners(options.ranks + 16);
  try {
    const secret = process.env.FUSCO_SECRET || randomBytes(32).toString('hex');
    return await processes.run(options.port ?? (await freePort()), secret);
  } finally {
    for (const signal of FORWARDED) process.off(signal, forward);
    process.off('exit', atExit);
  }
}
