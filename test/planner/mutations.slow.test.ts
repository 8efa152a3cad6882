// Mutated real plans, thousands of them. Without new digests every change is found; with new digests a file is
// refused with a code, or it is a sound plan: the only one that its own choices of experts allow.

import fc from 'fast-check';
import { beforeAll, describe, expect, it } from 'vitest';
import { decodePlan, encodePlan, FuscoError, type Plan, verifyPlan } from '../../planner/index.ts';
import { loadPlanner, nodeSha256 } from '../../planner/node.ts';
import { coverageDefects, executeNaively } from '../support/execute.ts';
import { ACCEPTED, nativeVerdict, verdict } from '../support/nativeFile.ts';
import { obviousHier } from '../support/obviousHier.ts';
import { type Choice, layOut } from '../support/obviousPlan.ts';
import { type FileParts, type Forgery, openFile, pack, sealFile } from '../support/planFile.ts';
import { SAMPLE_NAMES, samplePlan } from '../support/samplePlans.ts';
import { buildShard, expectedShard, parseShard, shardDifference } from '../support/shardParts.ts';

const SEED = 20260101;
const files: Uint8Array[] = [];

beforeAll(async () => {
  const planner = await loadPlanner();
  for (const name of SAMPLE_NAMES) {
    files.push((await encodePlan(samplePlan(planner, name), nodeSha256)).bytes);
  }
});

/**
 * Reads and verifies; the refusal's code, or the plan. Anything but a FuscoError fails the test, and so does another verdict
 * of native code.
 */
async function judge(bytes: Uint8Array): Promise<{ code: string } | { plan: Plan }> {
  const native = nativeVerdict(bytes);
  try {
    const { plan } = await decodePlan(bytes, nodeSha256);
    const verified = verifyPlan(plan);
    expect(native ?? ACCEPTED).toBe(ACCEPTED);
    return { plan: verified };
  } catch (error) {
    if (!(error instanceof FuscoError) || error.code === 'E_INTERNAL') throw error;
    if (error.message.includes('\n')) throw new Error(`not one line: ${error.message}`);
    const found = verdict(error.code, error.details.path);
    expect(native ?? found).toBe(found);
    return { code: error.code };
  }
}

/** Reads as `inspect` does, defects reported: nothing but a FuscoError may come out. Returns the defects. */
async function show(bytes: Uint8Array): Promise<string[]> {
  const defects: string[] = [];
  const report = (error: FuscoError) => void defects.push(error.code);
  try {
    const { plan } = await decodePlan(bytes, nodeSha256, report);
    verifyPlan(plan, report);
  } catch (error) {
    if (!(error instanceof FuscoError)) throw error;
    defects.push(error.code);
  }
  return defects;
}

/** What a plan that verified gets wrong when it is executed and compared with the only plan it can be. */
function faults(plan: Plan): string[] {
  const { spec, shards } = plan;
  const { placement } = spec;
  const found = coverageDefects(plan, executeNaively(plan));
  const choices = shards.map((shard) =>
    Array.from({ length: shard.tokens }, (_, token) =>
      Array.from({ length: shard.topk }, (_, k): Choice => {
        const instance = shard.entryInstance[token * shard.topk + k]!;
        if (instance === placement.instances) return undefined;
        return { rank: placement.instanceRank[instance]!, expert: placement.instanceExpert[instance]! };
      }),
    ),
  );
  const { replicas: _, ...options } = spec;
  const flat = layOut(choices, { ...options, placement: placement.map });
  const groups = [...plan.decision.groups];
  const expected = spec.strategy === 'flat' ? flat : obviousHier(flat, { ...spec, groups });
  shards.forEach((shard, rank) => {
    const difference = shardDifference(shard.bytes, expectedShard(expected, rank, spec.topk));
    if (difference !== undefined) found.push(`rank ${rank}: ${difference}`);
  });
  return found;
}

const anyFile = fc.nat(SAMPLE_NAMES.length - 1);
/** A place as a fraction, so that it fits every file. */
const place = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true });
const at = (fraction: number, length: number) => Math.floor(fraction * length);

type Edit =
  | { kind: 'flip'; where: number; bit: number }
  | { kind: 'write'; where: number; bytes: Uint8Array }
  | { kind: 'insert'; where: number; bytes: Uint8Array }
  | { kind: 'delete'; where: number; count: number }
  | { kind: 'truncate'; where: number };

const someBytes = fc.uint8Array({ minLength: 1, maxLength: 70 });
const anyEdit: fc.Arbitrary<Edit> = fc.oneof(
  { weight: 4, arbitrary: fc.record({ kind: fc.constant('flip'), where: place, bit: fc.nat(7) }) },
  fc.record({ kind: fc.constant('write'), where: place, bytes: someBytes }),
  fc.record({ kind: fc.constant('insert'), where: place, bytes: someBytes }),
  fc.record({ kind: fc.constant('delete'), where: place, count: fc.integer({ min: 1, max: 200 }) }),
  fc.record({ kind: fc.constant('truncate'), where: place }),
);

function edit(bytes: Uint8Array, change: Edit): Uint8Array {
  const where = at(change.where, bytes.length);
  if (change.kind === 'truncate') return bytes.slice(0, where);
  const before = bytes.subarray(0, where);
  if (change.kind === 'delete') return Buffer.concat([before, bytes.subarray(where + change.count)]);
  if (change.kind === 'insert') return Buffer.concat([before, change.bytes, bytes.subarray(where)]);
  const copy = bytes.slice();
  if (change.kind === 'flip') copy[where]! ^= 1 << change.bit;
  else copy.set(change.bytes.subarray(0, bytes.length - where), where);
  return copy;
}

describe('without new digests', () => {
  it('every change of the bytes is refused with a code', async () => {
    const codes = new Map<string, number>();
    await fc.assert(
      fc.asyncProperty(anyFile, anyEdit, async (file, change) => {
        const original = files[file]!;
        const bytes = edit(original, change);
        fc.pre(Buffer.compare(bytes, original) !== 0);
        const verdict = await judge(bytes);
        if (!('code' in verdict)) throw new Error('a changed file was accepted');
        codes.set(verdict.code, (codes.get(verdict.code) ?? 0) + 1);
        expect((await show(bytes)).length).toBeGreaterThan(0);
      }),
      { seed: SEED, numRuns: 4000 },
    );
    for (const code of ['E_PLAN_DIGEST', 'E_PLAN_TRUNCATED', 'E_PLAN_CANONICAL', 'E_PLAN_MAGIC']) {
      expect(codes.get(code) ?? 0, code).toBeGreaterThan(0);
    }
  });

  it('every single bit of the head of a file matters', async () => {
    const bytes = files[0]!;
    for (let bit = 0; bit < 8 * 512; bit++) {
      const copy = bytes.slice();
      copy[bit >> 3]! ^= 1 << (bit & 7);
      expect(await judge(copy), `bit ${bit}`).toHaveProperty('code');
    }
  });

  it('every length of a truncated file is refused', async () => {
    const bytes = files[3]!;
    for (let length = 0; length < bytes.length; length++) {
      expect(await judge(bytes.subarray(0, length)), `length ${length}`).toHaveProperty('code');
    }
  });
});

/** How a number is changed; `other` is another number of the same list. */
type Change = { by: 'add' | 'xor' | 'set' | 'other'; amount: number };
const anyChange: fc.Arbitrary<Change> = fc.oneof(
  fc.record({ by: fc.constant('add' as const), amount: fc.constantFrom(-64, -2, -1, 1, 2, 64) }),
  fc.record({ by: fc.constant('xor' as const), amount: fc.nat(31).map((bit) => 2 ** bit) }),
  fc.record({
    by: fc.constant('set' as const),
    amount: fc.constantFrom(0, 1, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1),
  }),
  fc.record({ by: fc.constant('other' as const), amount: fc.nat(1000) }),
);

function changed(list: readonly number[], index: number, { by, amount }: Change): number {
  const value = list[index]!;
  if (by === 'add') return value + amount;
  if (by === 'xor') return value ^ amount;
  return by === 'set' ? amount : list[amount % list.length]!;
}

type ShardEdit =
  | { kind: 'word'; rank: number; where: number; change: Change }
  | { kind: 'raw'; rank: number; where: number; change: Change }
  | { kind: 'element'; rank: number; section: number; where: number; change: Change }
  | { kind: 'swap'; rank: number; section: number; where: number; other: number }
  | { kind: 'resize'; rank: number; section: number; grow: boolean }
  | { kind: 'shards'; rank: number; other: number };

const rank = fc.nat(100);
const used = fc.nat(18);
const anyShardEdit: fc.Arbitrary<ShardEdit> = fc.oneof(
  fc.record({
    kind: fc.constantFrom('word' as const, 'raw' as const),
    rank,
    where: place,
    change: anyChange,
  }),
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constant('element'),
      rank,
      section: used,
      where: place,
      change: anyChange,
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ kind: fc.constant('swap'), rank, section: used, where: place, other: place }),
  },
  fc.record({ kind: fc.constant('resize'), rank, section: fc.nat(23), grow: fc.boolean() }),
  fc.record({ kind: fc.constant('shards'), rank, other: rank }),
);

function editShard(shards: Uint8Array[], change: ShardEdit): void {
  const index = change.rank % shards.length;
  const shard = shards[index]!;
  if (change.kind === 'shards') {
    const other = change.other % shards.length;
    [shards[index], shards[other]] = [shards[other]!, shard];
    return;
  }
  if (change.kind === 'raw') {
    // Any word of the bytes, the section table and the gaps included.
    const words = [...new Uint32Array(shard.buffer, shard.byteOffset, shard.length / 4)];
    const position = at(change.where, words.length);
    new DataView(shard.buffer).setUint32(4 * position, changed(words, position, change.change), true);
    return;
  }
  const parts = parseShard(shard);
  if (change.kind === 'word') {
    const position = at(change.where, parts.words.length);
    parts.words[position] = changed(parts.words, position, change.change);
  } else {
    const list = parts.sections[change.section]!;
    if (change.kind === 'resize') {
      if (change.grow) list.push(0);
      else list.pop();
    } else if (list.length > 0) {
      const position = at(change.where, list.length);
      if (change.kind === 'element') {
        list[position] = changed(list, position, change.change);
      } else {
        const other = at(change.other, list.length);
        [list[position], list[other]] = [list[other]!, list[position]!];
      }
    }
  }
  shards[index] = buildShard(parts);
}

/** Judges a sealed forgery: counts the refusal, or demands that the plan is sound. */
async function tally(bytes: Uint8Array, codes: Map<string, number>): Promise<void> {
  const verdict = await judge(bytes);
  if ('code' in verdict) {
    codes.set(verdict.code, (codes.get(verdict.code) ?? 0) + 1);
    expect((await show(bytes)).length).toBeGreaterThan(0);
  } else {
    codes.set('sound', (codes.get('sound') ?? 0) + 1);
    expect(faults(verdict.plan)).toEqual([]);
    expect(await show(bytes)).toEqual([]);
  }
}

describe('with every digest recomputed', () => {
  it('changed shards are refused, or sound', async () => {
    const codes = new Map<string, number>();
    await fc.assert(
      fc.asyncProperty(
        anyFile,
        fc.array(anyShardEdit, { minLength: 1, maxLength: 3 }),
        async (file, edits) => {
          const parts = openFile(files[file]!);
          for (const change of edits) editShard(parts.shards, change);
          await tally(sealFile(parts), codes);
        },
      ),
      { seed: SEED, numRuns: 4000 },
    );
    // Equal elements swapped leave a plan as it was; every check of the verifier has had its turn.
    expect(codes.get('sound') ?? 0).toBeGreaterThan(20);
    const checks = ['SHARD_LAYOUT', 'SHARD_HEAD', 'RUN_TABLE', 'ENTRY', 'STREAM', 'SLICE', 'SEGMENT_BOUNDS'];
    for (const check of [...checks, 'FORWARD']) {
      expect(codes.get(`E_${check}`) ?? 0, check).toBeGreaterThan(10);
    }
  });

  const odd = fc.constantFrom<unknown>(
    ...[
      0,
      1,
      2,
      3,
      4,
      5,
      6,
      7,
      8,
      12,
      64,
      -1,
      65535,
      2 ** 31,
      2n ** 32n,
      2n ** 64n - 1n,
      1.5,
      'flat',
      'hier',
    ],
    ...['f32', 'fp8', '', null, true, [], {}, [0], [[0, 1]], [0, 1, 2, 3, 0, 1, 2, 3], new Uint8Array(32)],
    ...[
      'none',
      'static',
      'rotate',
      'lpt',
      'best',
      'payload',
      [0, 0, 0, 0],
      [1, 0, 1, 0, 1, 0],
      [0, 1, 0, 2, 0, 1],
    ],
  );
  const anyKey = fc.constantFrom(
    ...['align', 'capacity', 'dtype', 'experts', 'hidden', 'placement', 'ranks', 'ranksPerNode', 'sliceRows'],
    ...['strategy', 'topk', 'zeal', 'balance', 'partial', 'rule', 'groups'],
  );

  it('changed options are refused, or sound', async () => {
    const codes = new Map<string, number>();
    await fc.assert(
      fc.asyncProperty(anyFile, anyKey, odd, fc.boolean(), async (file, key, value, remove) => {
        const parts = openFile(files[file]!);
        parts.core[key] = value;
        if (remove) delete parts.core[key];
        await tally(sealFile(parts), codes);
      }),
      { seed: SEED, numRuns: 1500 },
    );
    expect(codes.get('sound') ?? 0).toBeGreaterThan(20);
    for (const code of ['E_PLAN_HEADER', 'E_PLAN_CANONICAL', 'E_SHARD_HEAD']) {
      expect(codes.get(code) ?? 0, code).toBeGreaterThan(10);
    }
  });

  it('changed bytes of the header are refused, or sound', async () => {
    const codes = new Map<string, number>();
    await fc.assert(
      fc.asyncProperty(anyFile, anyEdit, async (file, change) => {
        const forgery: Forgery = { header: (honest) => edit(pack(honest), change) };
        const parts: FileParts = openFile(files[file]!);
        await tally(sealFile(parts, forgery), codes);
      }),
      { seed: SEED, numRuns: 3000 },
    );
    for (const code of ['E_PLAN_CANONICAL', 'E_PLAN_HEADER', 'E_PLAN_DIGEST']) {
      expect(codes.get(code) ?? 0, code).toBeGreaterThan(10);
    }
  });
});
