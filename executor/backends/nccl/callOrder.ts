// The order of calls of one rank. Every call has a number and a digest, identical on all ranks, and a deadline; when the
// deadline passes, the error names the late ranks.

import { createHash } from 'node:crypto';
import type { FuscoError } from '../../../planner/errors.ts';
import { translate } from '../../native/errors.ts';
import type { Coordinator } from '../types.ts';

/** Native work of a call, under its number and the first eight bytes of its digest. */
export type CallWork<T> = (call: number, digest: bigint) => Promise<T>;

/** First number of a call: native groups use 0 and 1 to open. */
const FIRST_CALL = 2;

/** The order of the calls of a coordinator, which its groups share. */
interface Queue {
  next: number;
  /** Resolves when the last call so far has been entered. */
  tail: Promise<unknown>;
}

const queues = new WeakMap<Coordinator, Queue>();

function queueOf(coordinator: Coordinator): Queue {
  const found = queues.get(coordinator) ?? { next: FIRST_CALL, tail: Promise.resolve() };
  queues.set(coordinator, found);
  return found;
}

/** How other ranks are told of a call. */
export type Announcement =
  /**
   * The first call of its kind waits until all ranks have entered it, before any row moves; a call of a kind that was run
   * before costs one message.
   */
  | 'coordinator'
  /** Kernels compare the digests and detect late ranks; the coordinator is not told. */
  | 'kernels';

/**
 * Numbers calls, enters them and runs them in the order of their numbers. If two ranks differ in a call, the group fails
 * on both.
 */
export class CallOrder {
  readonly #coordinator: Coordinator;
  readonly #queue: Queue;
  readonly #seen = new Set<string>();
  #failure: FuscoError | undefined;

  constructor(coordinator: Coordinator) {
    this.#coordinator = coordinator;
    this.#queue = queueOf(coordinator);
  }

  /**
   * @param parts description of the call, identical on all ranks: kind, plan, row bytes, dtypes
   * @throws FuscoError E_PEER_TIMEOUT with the ranks that did not enter the call, E_PEER_MISMATCH
   */
  async run<T>(
    parts: readonly (string | number | boolean)[],
    work: CallWork<T>,
    announcement: Announcement = 'coordinator',
  ): Promise<T> {
    if (this.#failure !== undefined) throw this.#failure;
    const text = JSON.stringify(parts);
    const digest = createHash('sha256').update(text).digest();
    const queue = this.#queue;
    const begun = performance.now();
    const call = queue.next++;
    // Calls are entered and started in the order of their numbers, regardless of the order in which they are awaited.
    const started = queue.tail.then(async () => {
      if (announcement === 'coordinator') {
        if (this.#seen.has(text)) this.#coordinator.announce(call, digest);
        else await this.#coordinator.enter(call, digest);
        this.#seen.add(text);
      }
      return { result: work(call, digest.readBigUInt64LE()) };
    });
    queue.tail = started.catch(() => {});
    try {
      return await (await started).result;
    } catch (error) {
      throw await this.#explain(call, error, performance.now() - begun, announcement);
    }
  }

  /** The error of a failed call. A timeout or a mismatch ends the group: all later calls reject with it. */
  async #explain(
    call: number,
    error: unknown,
    waitedMs: number,
    announcement: Announcement,
  ): Promise<FuscoError> {
    if (this.#failure !== undefined) return this.#failure;
    const isTold = announcement === 'coordinator';
    // For the kernels, a dead rank is a late one. Shortly afterwards the coordinator knows what happened to it.
    if (!isTold) await this.#coordinator.settle();
    const found = this.#coordinator.failure ?? (translate(error) as FuscoError);
    if (found.code !== 'E_PEER_TIMEOUT' && found.code !== 'E_PEER_MISMATCH') return found;
    if (isTold && this.#coordinator.failure === undefined && found.code === 'E_PEER_TIMEOUT') {
      // Ends the group also for ranks that enter the call later, so that they do not wait for this one.
      this.#failure = await this.#coordinator.timedOut(call, waitedMs);
    }
    this.#failure ??= found;
    return this.#failure;
  }
}
