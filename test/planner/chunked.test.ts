// Plans made and verified one shard at a time: the same bytes, the same verdicts, the memory of one rank.

import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { beforeAll, describe, expect, it } from 'vitest';
import {
  decodePlan,
  encodePlan,
  FuscoError,
  type Planner,
  planChunked,
  type RoutingTable,
  verifyChunked,
  verifyPlan,
} from '../../planner/index.ts';
import { loadPlanner, nodeHashing, nodeSha256 } from '../../planner/node.ts';
import { optionsOf } from '../../planner/spec.ts';
import { exponentOf } from '../../tools/bench/scale.ts';
import type { ScaleFigures } from '../../tools/bench/scaleCase.ts';
import { routingOf } from '../../tools/simulate/compare.ts';
import { honestFile, honestHierFile } from '../support/honest.ts';
import { type FileParts, openFile, sealFile } from '../support/planFile.ts';
import { SAMPLE_NAMES, samplePlan } from '../support/samplePlans.ts';
import { buildShard, parseShard, SECTION, type ShardParts, WORD } from '../support/shardParts.ts';

let planner: Planner;
beforeAll(async () => {
  planner = await loadPlanner();
});

const source = (bytes: Uint8Array) => ({
  length: bytes.length,
  read: async (at: number, into: Uint8Array) => {
    expect(at + into.length).toBeLessThanOrEqual(bytes.length);
    into.set(bytes.subarray(at, at + into.length));
  },
});

/** What a reader says of a file: a refusal's code and text, or the plan id. */
async function verdictOf(read: () => Promise<{ planId: string }>): Promise<string> {
  try {
    return (await read()).planId;
  } catch (error) {
    if (!(error instanceof FuscoError)) throw error;
    return `${error.code} ${error.message}`;
  }
}

/** Expects both readers to say the same, and returns it. */
async function bothVerdicts(bytes: Uint8Array): Promise<string> {
  const whole = await verdictOf(async () => {
    const decoded = await decodePlan(bytes, nodeSha256);
    verifyPlan(decoded.plan);
    return decoded;
  });
  expect(await verdictOf(() => verifyChunked(source(bytes), nodeHashing))).toBe(whole);
  return whole;
}

async function joined(chunks: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  for await (const chunk of chunks) parts.push(chunk);
  return Buffer.concat(parts);
}

async function sampleFile(name: string): Promise<Uint8Array> {
  return (await encodePlan(samplePlan(planner, name), nodeSha256)).bytes;
}

describe('a streamed plan', () => {
  it.each([...SAMPLE_NAMES, 'auto'])('%s has the bytes of the plan made at once', async (name) => {
    const sample = samplePlan(planner, name === 'auto' ? 'hier' : name);
    const tables = routingOf(sample);
    const options = { ...optionsOf(sample.spec), ...(name === 'auto' ? { strategy: 'auto' as const } : {}) };
    const { bytes, planId } = await encodePlan(planner.planAll(tables, options), nodeSha256);
    const streamed = await planChunked(planner, (rank) => tables[rank]!, options, nodeHashing);
    expect(streamed.planId).toBe(planId);
    expect(streamed.length).toBe(bytes.length);
    expect(Buffer.compare(await joined(streamed.chunks()), bytes)).toBe(0);
  });

  it('is the same when its planner is used for other plans meanwhile', async () => {
    const sample = samplePlan(planner, 'hier');
    const tables = routingOf(sample);
    const table = async (rank: number): Promise<RoutingTable> => {
      samplePlan(planner, 'crowded');
      return tables[rank]!;
    };
    const streamed = await planChunked(planner, table, optionsOf(sample.spec), nodeHashing);
    expect(Buffer.compare(await joined(streamed.chunks()), await sampleFile('hier'))).toBe(0);
  });

  it('refuses routing that changes between its passes', async () => {
    const tables = routingOf(samplePlan(planner, 'plain'));
    const { spec } = samplePlan(planner, 'plain');
    let calls = 0;
    const table = (rank: number): RoutingTable =>
      calls++ > spec.ranks
        ? { ...tables[rank]!, ids: new Int32Array(tables[rank]!.ids.length).fill(-1) }
        : tables[rank]!;
    await expect(planChunked(planner, table, optionsOf(spec), nodeHashing)).rejects.toMatchObject({
      code: 'E_FACTS',
    });
  });
});

describe('streamed verification', () => {
  it.each(SAMPLE_NAMES)('accepts %s', async (name) => {
    expect(await bothVerdicts(await sampleFile(name))).toMatch(/^[0-9a-f]{64}$/);
  });

  it('says what verifyPlan says of a file with any byte flipped, and of one cut short anywhere', async () => {
    const bytes = await sampleFile('hollow');
    for (let at = 0; at < bytes.length; at += 7) {
      const flipped = bytes.slice();
      flipped[at]! ^= 0x11;
      expect(await bothVerdicts(flipped)).toMatch(/^E_/);
      expect(await bothVerdicts(bytes.subarray(0, at))).toMatch(/^E_/);
    }
    expect(await bothVerdicts(Buffer.concat([bytes, Buffer.alloc(3)]))).toMatch(/^E_PLAN_CANONICAL/);
  });

  const forged = (file: FileParts, forge: (shards: ShardParts[]) => void) => {
    const shards = file.shards.map(parseShard);
    forge(shards);
    return bothVerdicts(sealFile({ ...file, shards: shards.map(buildShard) }));
  };

  it.each([...SAMPLE_NAMES])('says what verifyPlan says of %s with any number changed', async (name) => {
    const file = openFile(await sampleFile(name));
    const verdicts = new Set<string>();
    for (const rank of [0, file.shards.length - 1]) {
      for (const section of Object.values(SECTION)) {
        const { length } = parseShard(file.shards[rank]!).sections[section]!;
        for (const at of new Set([0, length >> 1, length - 1])) {
          if (length === 0) continue;
          const verdict = await forged(file, (shards) => void (shards[rank]!.sections[section]![at]! += 1));
          // An entry dropped at one full expert may as well have been dropped at another.
          const may = name === 'hier' && section === SECTION.entryInstance;
          expect(verdict, `${rank}/${section}/${at}`).toMatch(may ? /./ : /^E_/);
          verdicts.add(verdict);
        }
      }
      for (const word of Object.values(WORD)) {
        expect(await forged(file, (shards) => void (shards[rank]!.words[word]! += 1))).toMatch(/^E_/);
      }
    }
    expect(verdicts.size).toBeGreaterThan(20);
  });

  it('finds of several defects the one that verifyPlan finds first', async () => {
    const flat = await honestFile();
    const verdict = await forged(flat, (shards) => {
      shards[0]!.sections[SECTION.entrySlot]![0]! += 1;
      shards[2]!.sections[SECTION.sendRows]![2]! += 1;
    });
    expect(verdict).toContain('E_RUN_TABLE /ranks/2/sendRuns/2');
    const hier = await honestHierFile();
    expect(
      await forged(hier, (shards) => {
        shards[0]!.sections[SECTION.forwardRows]![1]! += 1;
        shards[3]!.words[WORD.topk]! += 1;
      }),
    ).toContain('E_SHARD_HEAD /ranks/3');
  });

  it('names a wrong digest before anything that is wrong inside', async () => {
    const file = await honestFile();
    const shards = file.shards.map(parseShard);
    shards[0]!.sections[SECTION.entrySlot]![0]! += 1;
    const bytes = sealFile({ ...file, shards: shards.map(buildShard) });
    bytes[bytes.length - 1]! ^= 1;
    expect(await bothVerdicts(bytes)).toMatch(/^E_PLAN_DIGEST \/digest/);
  });

  it('refuses a file that changes between its two passes', async () => {
    const bytes = await sampleFile('plain');
    let steps = 0;
    const change = () => {
      if (++steps === 6) bytes[bytes.length - 70]! ^= 1;
    };
    await expect(verifyChunked(source(bytes), nodeHashing, change)).rejects.toMatchObject({
      code: 'E_PLAN_DIGEST',
    });
  });
});

describe('memory', () => {
  /** One case of the bench in a process of its own. */
  function measured(ranks: number, tokens: number, strategy: string): ScaleFigures {
    const script = fileURLToPath(new URL('../../dist/tools/bench/scaleCase.js', import.meta.url));
    const asked = JSON.stringify({ ranks, experts: 256, tokens, topk: 8, strategy });
    return JSON.parse(execFileSync(process.execPath, [script, asked], { encoding: 'utf8' })) as ScaleFigures;
  }

  it.each<[string, number, number]>([
    ['flat', 256, 2048],
    ['hier', 256, 1024],
  ])('of a %s plan stays far below the size of its file', (strategy, ranks, tokens) => {
    const figures = measured(ranks, tokens, strategy);
    const added = figures.peakMiB - figures.startMiB;
    expect(figures.fileMiB).toBeGreaterThan(40);
    expect(added).toBeLessThan(30);
    expect(figures.plannerMiB).toBeLessThan(4);
  });
});

describe('exponentOf', () => {
  it('is the power of a power law', () => {
    expect(exponentOf([1, 2, 4, 8], [3, 12, 48, 192])).toBeCloseTo(2, 12);
    expect(exponentOf([256, 1024], [5, 5])).toBeCloseTo(0, 12);
  });
});
