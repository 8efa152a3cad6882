// The thread of a session. Heart-beats and rank 0's answers must go on while the main thread computes: a late rank is one
// whose main thread does something else. Main thread and worker exchange the messages below; the worker of rank 0 also
// runs the server.

import { hostname } from 'node:os';
import { type MessagePort, parentPort, workerData } from 'node:worker_threads';
import { type ErrorCode, FuscoError } from '../../planner/errors.ts';
import { Client, type LocalPlace } from './client.ts';
import type { Failure, LateReport } from './report.ts';
import { Server } from './server.ts';

/** What the worker is started with. */
export interface WorkerSetup {
  readonly rank: number;
  readonly worldSize: number;
  readonly host: string;
  readonly port: number;
  /** Interface that rank 0 listens on; undefined: all interfaces. */
  readonly listenHost: string | undefined;
  readonly version: string;
  readonly secret: string;
  readonly deadlineMs: number;
  readonly heartbeatMs: number;
}

/** From the main thread to the worker. Requests with an id are answered. */
export type Request =
  | { op: 'gather'; id: number; what: string; part: Uint8Array; deadlineMs: number }
  | { op: 'enter'; id: number | undefined; call: number; digest: Uint8Array; deadlineMs: number }
  | { op: 'late'; id: number; call: number }
  | { op: 'lateness'; id: number }
  | { op: 'expire'; call: number; waitedMs: number }
  | { op: 'close' };

type Answer = Uint8Array[] | Float64Array | LateReport | undefined;

/** From the worker to the main thread. */
export type Notice =
  | ({ event: 'ready' } & LocalPlace)
  | { event: 'refused'; code: ErrorCode; text: string; rank: number | undefined }
  | { event: 'answer'; id: number; value: Answer }
  | { event: 'failure'; failure: Failure }
  | { event: 'log'; line: string };

/** Serves one session until it is closed. */
class SessionWorker {
  readonly #port: MessagePort;
  readonly #setup: WorkerSetup;
  #server: Server | undefined;
  #client: Client | undefined;
  #gathers: Promise<unknown> = Promise.resolve();
  #closing = false;

  constructor(port: MessagePort, setup: WorkerSetup) {
    this.#port = port;
    this.#setup = setup;
    port.on('message', (request: Request) => this.#serve(request));
  }

  #tell(notice: Notice): void {
    this.#port.postMessage(notice);
  }

  async open(): Promise<void> {
    const { rank, worldSize, listenHost, version, ...rest } = this.#setup;
    const started = performance.now();
    try {
      if (rank === 0) {
        const log = (line: string) => this.#tell({ event: 'log', line });
        this.#server = await Server.listen({ ...rest, host: listenHost, worldSize, version, log });
      }
      const host = rank === 0 ? (listenHost ?? '127.0.0.1') : rest.host;
      this.#client = new Client({
        ...rest,
        deadlineMs: Math.max(1, rest.deadlineMs - (performance.now() - started)),
        address: { host, port: this.#server?.port ?? rest.port },
        identity: { version, worldSize, rank, host: hostname() },
        onFailure: (failure) => this.#tell({ event: 'failure', failure }),
      });
      this.#tell({ event: 'ready', ...(await this.#client.connect()) });
    } catch (error) {
      if (!(error instanceof FuscoError)) throw error;
      this.#tell({ event: 'refused', code: error.code, text: error.message, rank: error.details.rank });
    }
  }

  #serve(request: Request): void {
    if (request.op === 'close') return void this.#close();
    const client = this.#client!;
    if (request.op === 'enter') {
      const { id, call, digest, deadlineMs } = request;
      if (id === undefined) client.announce(call, digest);
      else void client.enter(call, digest, deadlineMs).then(() => this.#answer(id, undefined));
    } else if (request.op === 'late') {
      const { id, call } = request;
      void client.late(call).then((report) => this.#answer(id, report));
    } else if (request.op === 'lateness') {
      const { id } = request;
      void client.lateness().then((behindMs) => this.#answer(id, behindMs));
    } else if (request.op === 'expire') {
      client.expire(request.call, request.waitedMs);
    } else {
      const { id, what, part, deadlineMs } = request;
      const call = () => client.gather(what, part, deadlineMs).then((parts) => this.#answer(id, parts));
      this.#gathers = this.#gathers.then(call);
    }
  }

  #answer(id: number, value: Answer): void {
    this.#tell({ event: 'answer', id, value });
  }

  async #close(): Promise<void> {
    if (this.#closing) return;
    this.#closing = true;
    await this.#client?.close();
    await this.#server?.close();
    process.exit(0);
  }
}

if (parentPort !== null) void new SessionWorker(parentPort, workerData as WorkerSetup).open();
