import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { beforeAll, describe, expect, it } from 'vitest';
import {
  decodePlan,
  encodePlan,
  isVerified,
  type Planner,
  planId,
  subtleSha256,
  verifyPlan,
} from '../../planner/index.ts';
import { loadPlanner, nodeSha256 } from '../../planner/node.ts';
import { openFile, pack, sealFile, unpack } from '../support/planFile.ts';
import { SAMPLE_NAMES, samplePlan } from '../support/samplePlans.ts';
import { makeRouting, toTables } from '../support/workloads.ts';

let planner: Planner;
beforeAll(async () => {
  planner = await loadPlanner();
});

const encodeSample = (name: string) => encodePlan(samplePlan(planner, name), nodeSha256);

/** A plan of `ranks` ranks; few tokens, top-2. */
function groupOf(ranks: number, tokens = 5) {
  const routing = makeRouting({ family: 'balanced', seed: ranks, ranks, tokens, topk: 2, experts: 16 });
  return planner.planAll(toTables(routing, 2), { ranks, experts: 16 });
}

/** Where each shard starts and ends in the file, found by its content. */
function placesOf(bytes: Uint8Array, shards: readonly { bytes: Uint8Array }[]): [number, number][] {
  const file = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
  let from = 0;
  return shards.map((shard) => {
    const start = file.indexOf(shard.bytes, from);
    from = start + shard.bytes.length;
    return [start, from];
  });
}

const PLACEMENTS: Partial<Record<string, unknown>> = {
  replicas: [[0, 3], 1, [1, 2, 4], 4, 0],
  hier: [0, 0, [1, 4], 1, 2, [2, 5], 3, 3, 4, 4, 5, 5],
};

/** What the header says of the samples that are not flat; a rank alone on its node is in group 0. */
const DECISIONS: Partial<Record<string, object>> = {
  hier: { strategy: 'hier', balance: 'rotate', partial: 'payload', rule: 'rotate' },
  ranksAlone: { strategy: 'hier', balance: 'best', partial: 'f32', rule: 'static', groups: [0, 0, 0, 0] },
  byToken: { strategy: 'hier', sum: 'token' },
};

describe('the file', () => {
  it.each(SAMPLE_NAMES)('is one msgpack array as the drawing has it (%s)', async (name) => {
    const plan = samplePlan(planner, name);
    const { bytes, planId } = await encodePlan(plan, nodeSha256);
    const items = unpack(bytes) as unknown[];
    const { ranks } = plan.spec;
    expect(items).toHaveLength(4 + 2 * ranks);
    expect(items.slice(0, 2)).toEqual(['FUSCOPLN', [1, name === 'byToken' ? 1 : 0]]);

    const header = items[2] as Record<string, unknown>;
    expect(Object.keys(header)).toEqual(Object.keys(header).sort());
    expect(Object.keys(header)).toEqual(expect.arrayContaining(['core', 'planId', 'producer', 'shards']));
    const core = header.core as Record<string, unknown>;
    const keys = Object.keys(core);
    expect(keys).toEqual([...keys].sort());
    const { experts, ranksPerNode, topk, hidden, dtype, align, capacity, sliceRows, tileTokens } = plan.spec;
    expect(core).toMatchObject({
      ...{ experts, ranks, ranksPerNode, topk, hidden, dtype, align, capacity, sliceRows, tileTokens },
      placement: PLACEMENTS[name] ?? [],
      ...(DECISIONS[name] ?? {
        strategy: 'flat',
        balance: 'none',
        partial: 'none',
        rule: 'none',
        groups: [],
      }),
    });
    expect(header.reason).toBe('');
    expect(Buffer.from(header.planId as Uint8Array).toString('hex')).toBe(planId);
    expect(header.producer).toMatch(/^fusco \d+\.\d+\.\d+$/);

    plan.shards.forEach((shard, rank) => {
      const pad = items[3 + 2 * rank] as Uint8Array;
      const found = items[4 + 2 * rank] as Uint8Array;
      expect([...pad]).toEqual(new Array(pad.length).fill(0));
      expect(pad.length).toBeLessThan(64);
      expect(Buffer.compare(found, shard.bytes)).toBe(0);
      const digest = createHash('sha256').update(found).digest();
      const [length, claimed] = (header.shards as [number, Uint8Array][])[rank]!;
      expect(length).toBe(found.length);
      expect(Buffer.compare(claimed, digest)).toBe(0);
    });
    const digest = createHash('sha256')
      .update(bytes.subarray(0, bytes.length - 32))
      .digest();
    expect(Buffer.compare(items.at(-1) as Uint8Array, digest)).toBe(0);
  });

  it.each(SAMPLE_NAMES)('has the bytes that an independent writer gives it (%s)', async (name) => {
    const { bytes } = await encodeSample(name);
    expect(Buffer.compare(sealFile(openFile(bytes)), bytes)).toBe(0);
  });

  it.each([1, 2, 5, 6, 7, 8, 64])('keeps %d shards at multiples of 64 and reads them back', async (ranks) => {
    const plan = groupOf(ranks);
    const { bytes, planId } = await encodePlan(plan, nodeSha256);
    const places = placesOf(bytes, plan.shards);
    expect(places).toHaveLength(ranks);
    for (const [start] of places) {
      expect(start).toBeGreaterThan(0);
      expect(start % 64).toBe(0);
    }
    const decoded = await decodePlan(bytes, nodeSha256);
    expect(decoded.planId).toBe(planId);
    expect(decoded.version).toEqual([1, 0]);
    expect(decoded.plan.spec).toEqual(plan.spec);
    decoded.plan.shards.forEach((shard, rank) => {
      expect(Buffer.compare(shard.bytes, plan.shards[rank]!.bytes)).toBe(0);
    });
    // A decoded plan is a stranger until it is verified.
    expect(isVerified(decoded.plan)).toBe(false);
    expect(isVerified(verifyPlan(decoded.plan))).toBe(true);
    const again = await encodePlan(decoded.plan, nodeSha256);
    expect(Buffer.compare(again.bytes, bytes)).toBe(0);
  });

  it('reads 4096 ranks', async () => {
    const plan = groupOf(4096, 1);
    const { bytes } = await encodePlan(plan, nodeSha256);
    const decoded = await decodePlan(bytes, nodeSha256);
    expect(verifyPlan(decoded.plan).shards).toHaveLength(4096);
  });

  it.each([0, 1, 2, 3, 4, 7])('is read at any address, from a Buffer too (offset %d)', async (offset) => {
    const { bytes, planId } = await encodeSample('crowded');
    const moved = new Uint8Array(bytes.length + offset + 9);
    moved.set(bytes, offset);
    const view = moved.subarray(offset, offset + bytes.length);
    const buffer = Buffer.from(moved.buffer, offset, bytes.length);
    for (const source of [view, buffer]) {
      const decoded = await decodePlan(source, nodeSha256);
      expect(decoded.planId).toBe(planId);
      verifyPlan(decoded.plan);
    }
  });
});

describe('sizes', () => {
  it.each([
    [1, 2000, 256],
    [8, 500, 256],
    [64, 40, 256],
    [8, 1, 8],
  ])('%d ranks x %d tokens: at most 12 bytes an entry and 64 KiB a shard', async (ranks, tokens, experts) => {
    const routing = makeRouting({ family: 'balanced', seed: 5, ranks, tokens, topk: 8, experts });
    const plan = planner.planAll(toTables(routing, 8), { ranks, experts });
    const { bytes } = await encodePlan(plan, nodeSha256);
    expect(bytes.length).toBeLessThanOrEqual(12 * ranks * tokens * 8 + 65536 * ranks);
    for (const shard of plan.shards) {
      expect(shard.bytes.length).toBeLessThanOrEqual(12 * tokens * 8 + 65536);
      // Slot, instance and stream position of every entry.
      expect(shard.bytes.length).toBeGreaterThan(10 * tokens * 8);
    }
  });
});

describe('digests', () => {
  it.each(SAMPLE_NAMES)('SubtleCrypto and node:crypto give the same file and plan id (%s)', async (name) => {
    const plan = samplePlan(planner, name);
    const node = await encodePlan(plan, nodeSha256);
    const subtle = await encodePlan(plan, subtleSha256);
    expect(subtle.planId).toBe(node.planId);
    expect(Buffer.compare(subtle.bytes, node.bytes)).toBe(0);
    expect(await planId(plan, subtleSha256)).toBe(node.planId);
    expect((await decodePlan(node.bytes, subtleSha256)).planId).toBe(node.planId);
  });

  it('the plan id covers the options and every shard, as documented', async () => {
    const plan = samplePlan(planner, 'plain');
    const { bytes, planId } = await encodePlan(plan, nodeSha256);
    const hash = createHash('sha256');
    hash.update(pack(['FUSCOPLN', 1]));
    hash.update(pack(openFile(bytes).core));
    for (const shard of plan.shards) hash.update(createHash('sha256').update(shard.bytes).digest());
    expect(planId).toBe(hash.digest('hex'));
  });

  it('the plan id does not depend on who wrote the file', async () => {
    const { bytes, planId } = await encodeSample('crowded');
    const parts = openFile(bytes);
    const other = sealFile({ ...parts, rest: { ...parts.rest, producer: 'someone else 9.9.9' } });
    const decoded = await decodePlan(other, nodeSha256);
    expect(decoded.planId).toBe(planId);
    expect(decoded.producer).toBe('someone else 9.9.9');
    expect(Buffer.compare(other, bytes)).not.toBe(0);
  });

  it('plans that differ have other ids', async () => {
    const routing = makeRouting({ family: 'balanced', seed: 6, ranks: 4, tokens: 8, topk: 2, experts: 8 });
    const swapped = routing.map((tokens) => tokens.map((ids) => [...ids].reverse()));
    const ids = new Set<string>();
    for (const table of [routing, swapped]) {
      for (const options of [{}, { align: 2 }, { hidden: 64 }, { ranksPerNode: 2 }, { capacity: 99 }]) {
        const plan = planner.planAll(toTables(table, 2), { ranks: 4, experts: 8, ...options });
        ids.add((await encodePlan(plan, nodeSha256)).planId);
      }
    }
    expect(ids.size).toBe(10);
  });
});

it('names the version of package.json as its producer', async () => {
  const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8'));
  expect((await decodePlan((await encodeSample('plain')).bytes, nodeSha256)).producer).toBe(
    `fusco ${version}`,
  );
});
