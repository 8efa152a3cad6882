// The thread of a session. Heartbeats, and the answers of rank 0, must continue while the main thread computes: a rank is
// usually late because its main thread is busy. Main thread and worker exchange the messages below; the worker of rank 0
// also runs the server.

import { hostname } from 'node:os';
import { type MessagePort, parentPort, workerData } from 'node:worker_threads';
import { FuscoError } from '../../planner/errors.ts';
import { Client, type LocalPlace } from './client.ts';
import type { Bootstrap } from './environment.ts';
import { behindRank, type Failure } from './report.ts';
import { Server } from './server.ts';

/** What the worker is started with. */
export interface WorkerSetup extends Bootstrap {
  /** Interface that rank 0 listens on; undefined: all interfaces. */
  readonly listenHost: string | undefined;
  readonly version: string;
}

/** Methods of the client that the main thread calls. */
type Methods = Pick<Client, 'gather' | 'enter' | 'announce' | 'late' | 'lateness' | 'expire'>;
export type Method = keyof Methods;
export type Answer<Name extends Method = Method> = Awaited<ReturnType<Methods[Name]>>;

/** From the main thread to the worker: a call of the client, which is answered if it has an id, or the end. */
export type Request =
  | { [Name in Method]: { op: Name; id: number | undefined; args: Parameters<Methods[Name]> } }[Method]
  | { op: 'close' };

/** From the worker to the main thread. */
export type Notice =
  | ({ event: 'ready' } & LocalPlace)
  | { event: 'answer'; id: number; value: Answer }
  | { event: 'failure'; failure: Failure }
  | { event: 'log'; line: string };

/** Serves one session until it is closed. */
class SessionWorker {
  readonly #port: MessagePort;
  readonly #setup: WorkerSetup;
  #server: Server | undefined;
  #client: Client | undefined;
  #closing = false;

  constructor(port: MessagePort, setup: WorkerSetup) {
    this.#port = port;
    this.#setup = setup;
    port.on('message', (request: Request) => void this.#serve(request));
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
        // Behind `ready`, where both came in one packet: the session then fails in its first call.
        onFailure: (failure) => void setImmediate(() => this.#tell({ event: 'failure', failure })),
      });
      this.#tell({ event: 'ready', ...(await this.#client.connect()) });
    } catch (error) {
      if (!(error instanceof FuscoError)) throw error;
      const { code, message: text, details } = error;
      const ranks = details.rank === undefined ? [] : [behindRank(details.rank, undefined)];
      this.#tell({ event: 'failure', failure: { code, text, ranks } });
    }
  }

  async #serve(request: Request): Promise<void> {
    if (request.op === 'close') return this.#close();
    const { op, id, args } = request;
    const client = this.#client!;
    const value = await Reflect.apply(client[op], client, args);
    if (id !== undefined) this.#tell({ event: 'answer', id, value });
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
