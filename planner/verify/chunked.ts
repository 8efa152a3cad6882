// Verification of a plan file that is read one shard at a time. The result is that of decodePlan and verifyPlan: the same
// code and place for the same file. The file is read twice. The first pass hashes it, checks each shard separately and
// keeps the tables that ranks have about each other, u32[instances, ranks] twice; the second pass checks the rows. The
// second pass hashes each shard again, so that a file that changes in between is refused.

import { FuscoError } from '../errors.ts';
import { equalBytes } from '../format/bytes.ts';
import { Cursor } from '../format/cursor.ts';
import {
  checkDigests,
  checkFileDigest,
  FILE_HEAD_BYTES,
  type FileHead,
  MAX_FRONT_BYTES,
  readFileDigest,
  readFileHead,
  readFront,
} from '../format/decode.ts';
import type { Hashing, RunningHash } from '../format/hash.ts';
import { Shard } from '../format/shard.ts';
import { LandingTables } from '../landing.ts';
import type { Plan } from '../plan.ts';
import type { Progress } from '../planner.ts';
import { checkGroups } from './forward.ts';
import { Halt } from './halt.ts';
import { checkQuotas, countEntries } from './replicas.ts';
import type { Receiver } from './rows.ts';
import { checkSend, type RunTable } from './tables.ts';
import { OWN_CHECKS, rowChecks } from './verify.ts';

/** A file that is read by ranges. */
export interface PlanSource {
  /** Bytes of the file. */
  readonly length: number;
  /** Fills `into` with the bytes from `at` on, which are inside the file. */
  readonly read: (at: number, into: Uint8Array) => Promise<void>;
}

/** The verified plan without its shards. */
export interface VerifiedFile {
  readonly plan: Omit<Plan, 'shards'>;
  /** 64 hex digits. */
  readonly planId: string;
  readonly producer: string;
}

/** The stages of decodePlan and verifyPlan, in order. The defect of the earliest stage is thrown. */
const STAGES = [
  'file',
  'layout',
  'digest',
  'own 0',
  'own 1',
  'own 2',
  'send',
  'groups',
  'rows',
  'quotas',
] as const;
type Stage = (typeof STAGES)[number];

/** The first defect of every stage. */
class Defects {
  readonly #found = new Map<Stage, FuscoError>();

  add(stage: Stage, defect: FuscoError): void {
    if (!this.#found.has(stage)) this.#found.set(stage, defect);
  }

  /** Whether a check throws a defect. Any other error is rethrown. */
  fails(stage: Stage, check: () => void): boolean {
    try {
      check();
      return false;
    } catch (error) {
      if (error instanceof Halt) this.add(stage, error.defect);
      else if (error instanceof FuscoError) this.add(stage, error);
      else throw error;
      return true;
    }
  }

  get any(): boolean {
    return this.#found.size > 0;
  }

  throwFirst(): void {
    for (const stage of STAGES) {
      const defect = this.#found.get(stage);
      if (defect !== undefined) throw defect;
    }
  }
}

/** What the first pass keeps for every rank. */
interface Kept {
  readonly runs: RunTable[];
  readonly receivers: Receiver[];
  /** u32[ranks, nodes] in hierarchical plans. */
  readonly nodeRows: Uint32Array;
  /** u32[ranks, instances], entries of each instance, under `quota-1`. */
  readonly entries: Uint32Array;
}

/** One file during its verification. */
class FileVerifier {
  readonly #source: PlanSource;
  readonly #hashing: Hashing;
  readonly #defects = new Defects();
  /** Place of each shard. */
  readonly #starts: number[] = [];
  #buffer = new Uint8Array(0);

  constructor(source: PlanSource, hashing: Hashing) {
    this.#source = source;
    this.#hashing = hashing;
  }

  /** A window of the file; valid until the next one is read. */
  async #window(at: number, most: number): Promise<Uint8Array> {
    const bytes = Math.max(0, Math.min(most, this.#source.length - at));
    if (this.#buffer.length < bytes) this.#buffer = new Uint8Array(bytes);
    const window = this.#buffer.subarray(0, bytes);
    await this.#source.read(at, window);
    return window;
  }

  async #cursorAt(at: number, most: number): Promise<Cursor> {
    return new Cursor(await this.#window(at, most), at, this.#source.length);
  }

  async verify(progress?: Progress): Promise<VerifiedFile> {
    const cursor = await this.#cursorAt(0, FILE_HEAD_BYTES);
    const head = readFileHead(cursor);
    const digest = await this.#findShards(head, cursor.at);
    const { ranks } = head.plan.spec;
    const { kept, planId } = await this.#readOnce(head, digest, (rank) => progress?.(rank, 2 * ranks));
    this.#defects.throwFirst();
    await this.#readAgain(head, kept, (rank) => progress?.(ranks + rank, 2 * ranks));
    this.#defects.throwFirst();
    return { plan: head.plan, planId, producer: head.producer };
  }

  /** Records where every shard starts; returns the digest of the file. */
  async #findShards(head: FileHead, from: number): Promise<Uint8Array> {
    let at = from;
    for (const [rank, [bytes]] of head.shards.entries()) {
      const cursor = await this.#cursorAt(at, MAX_FRONT_BYTES);
      readFront(cursor, rank, bytes);
      this.#starts.push(cursor.at);
      cursor.pass(bytes, `the shard of rank ${rank}`);
      at = cursor.at;
    }
    return readFileDigest(await this.#cursorAt(at, MAX_FRONT_BYTES), this.#source.length).slice();
  }

  /** Hashes the bytes between two shards. */
  async #hashGap(hash: RunningHash, from: number, to: number): Promise<void> {
    hash.update(await this.#window(from, to - from));
  }

  async #readOnce(head: FileHead, digest: Uint8Array, onRank: (rank: number) => void) {
    const { spec } = head.plan;
    const kept: Kept = {
      runs: [],
      receivers: [],
      nodeRows: new Uint32Array(spec.ranks * spec.nodes),
      entries: new Uint32Array(spec.replicas === 'quota-1' ? spec.ranks * spec.placement.instances : 0),
    };
    const hash = this.#hashing.running();
    const digests: Uint8Array[] = [];
    let at = 0;
    for (const [rank, [length]] of head.shards.entries()) {
      onRank(rank);
      const start = this.#starts[rank]!;
      await this.#hashGap(hash, at, start);
      const bytes = await this.#window(start, length);
      hash.update(bytes);
      digests.push(Uint8Array.from(await this.#hashing.sha256([bytes])));
      this.#keep(bytes, head, kept, rank);
      at = start + length;
    }
    await this.#hashGap(hash, at, this.#source.length - digest.length);
    const defects = this.#defects;
    checkFileDigest(hash.digest(), digest, (error) => defects.add('file', error));
    const found = (error: FuscoError) => defects.add('digest', error);
    return { kept, planId: await checkDigests(head, digests, this.#hashing.sha256, found) };
  }

  /** Checks a shard separately, and keeps its tables about other ranks. */
  #keep(bytes: Uint8Array, head: FileHead, kept: Kept, rank: number): void {
    const { spec } = head.plan;
    let shard: Shard | undefined;
    if (this.#defects.fails('layout', () => void (shard = Shard.open(bytes, rank))) || !shard) return;
    const opened = shard;
    for (const [i, check] of OWN_CHECKS.entries()) {
      if (this.#defects.fails(`own ${i}` as Stage, () => check(opened, spec, rank))) return;
    }
    // After a defect nothing needs to be kept, but the checks above may still find one of an earlier stage.
    if (this.#defects.any) return;
    kept.runs.push({ runRow: opened.runRow.slice(), runRows: opened.runRows.slice() });
    kept.receivers.push({ recvRows: opened.recvRows, expertOffset: opened.expertOffset.slice() });
    kept.nodeRows.set(opened.forwardRows, rank * spec.nodes);
    if (kept.entries.length > 0) kept.entries.set(countEntries(opened), rank * spec.placement.instances);
  }

  async #readAgain(head: FileHead, kept: Kept, onRank: (rank: number) => void): Promise<void> {
    const { plan, shards } = head;
    const { spec, decision } = plan;
    const { runs, receivers, nodeRows } = kept;
    const defects = this.#defects;
    let landing: LandingTables | undefined;
    if (spec.strategy === 'hier' && !defects.fails('groups', () => checkGroups(plan, nodeRows))) {
      landing = new LandingTables(spec, decision.groups, nodeRows);
    }
    for (const [rank, [length, digest]] of shards.entries()) {
      onRank(rank);
      const bytes = await this.#window(this.#starts[rank]!, length);
      if (!equalBytes(await this.#hashing.sha256([bytes]), digest)) {
        const path = `/ranks/${rank}`;
        throw new FuscoError('E_PLAN_DIGEST', 'the shard changed while it was verified', { path, rank });
      }
      const shard = Shard.open(bytes, rank);
      defects.fails('send', () => checkSend(shard, runs, spec, rank));
      // After any defect only one of an earlier stage can still be the first.
      if (defects.any) continue;
      rowChecks(shard, receivers, plan, landing, rank).every((check) => !defects.fails('rows', check));
    }
    if (kept.entries.length > 0 && !defects.any)
      defects.fails('quotas', () => checkQuotas(kept.entries, spec));
  }
}

/**
 * Verifies a plan file. It needs memory for the largest shard and for the tables that ranks have about each other: 8
 * bytes x ranks x instances, or 12 with quotas. The result and the error are those of decodePlan and verifyPlan.
 *
 * @param progress called before every shard of both passes
 * @throws FuscoError with the place of the first defect; any error of `source.read`
 */
export function verifyChunked(
  source: PlanSource,
  hashing: Hashing,
  progress?: Progress,
): Promise<VerifiedFile> {
  return new FileVerifier(source, hashing).verify(progress);
}
