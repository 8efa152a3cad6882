// The order of calls of one rank: each has a number and a digest, alike on all ranks, and a deadline that names those
// who did not come.

import { createHash } from 'node:crypto';
import type { FuscoError } from '../../../planner/errors.ts';
import { translate } from '../../native/errors.ts';
import type { Session } from '../../rendezvous/session.ts';

/** What runs natively under the number and the first eight bytes of the digest. */
export type StepWork<T> = (step: number, digest: bigint) => Promise<T>;

/** Steps before the first one: native groups take numbers 0 and 1 for themselves. */
const FIRST_STEP = 2;

/** The order of a session's steps, which its groups share. */
interface Queue {
  next: number;
  /** Resolves when the last step so far has been announced. */
  tail: Promise<unknown>;
}

const queues = new WeakMap<Session, Queue>();

function queueOf(session: Session): Queue {
  const found = queues.get(session) ?? { next: FIRST_STEP, tail: Promise.resolve() };
  queues.set(session, found);
  return found;
}

/**
 * Announces steps and runs them in the order of the calls. A step that looks like none before is awaited on all ranks
 * before anything moves; one that was seen costs a message. Two ranks that differ in it end the session either way.
 */
export class StepOrder {
  readonly #session: Session;
  readonly #queue: Queue;
  readonly #seen = new Set<string>();
  #failure: FuscoError | undefined;

  constructor(session: Session) {
    this.#session = session;
    this.#queue = queueOf(session);
  }

  /**
   * @param parts what the step does, alike on all ranks: kind, plan, row bytes, dtypes
   * @throws FuscoError E_PEER_TIMEOUT listing ranks that did not enter the step, E_PEER_MISMATCH
   */
  async run<T>(parts: readonly (string | number | boolean)[], work: StepWork<T>): Promise<T> {
    if (this.#failure !== undefined) throw this.#failure;
    const text = JSON.stringify(parts);
    const digest = createHash('sha256').update(text).digest();
    const queue = this.#queue;
    const begun = performance.now();
    const step = queue.next++;
    // Steps are announced and handed over in the order of their numbers, whoever awaits them.
    const started = queue.tail.then(async () => {
      const entered = this.#session.enter(step, digest, !this.#seen.has(text));
      if (entered !== undefined) await entered;
      this.#seen.add(text);
      return { result: work(step, digest.readBigUInt64LE()) };
    });
    queue.tail = started.catch(() => {});
    try {
      return await (await started).result;
    } catch (error) {
      throw await this.#explain(step, error, performance.now() - begun);
    }
  }

  /** The group's end, where this error is one: with the names of those who were late. */
  async #explain(step: number, error: unknown, waitedMs: number): Promise<FuscoError> {
    if (this.#failure !== undefined) return this.#failure;
    const found = this.#session.failure ?? (translate(error) as FuscoError);
    if (found.code !== 'E_PEER_TIMEOUT' && found.code !== 'E_PEER_MISMATCH') return found;
    if (this.#session.failure === undefined && found.code === 'E_PEER_TIMEOUT') {
      const report = await this.#session.late(step).catch(() => undefined);
      // Ranks that come later must not wait for this one.
      if (report?.ranks.length) this.#session.expire(step, waitedMs);
      this.#failure = report?.ranks.length ? this.#session.timeoutError(step, report) : found;
    }
    this.#failure ??= found;
    return this.#failure;
  }
}
