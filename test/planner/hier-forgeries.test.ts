// Hierarchical plans edited on purpose, every digest recomputed: each kind of lie is refused with its own code and
// place. The plan is the one of hier.test.ts, balanced `static`.

import { describe, expect, it } from 'vitest';
import { decodePlan, encodePlan, isVerified, verifyPlan } from '../../planner/index.ts';
import { loadPlanner, nodeSha256 } from '../../planner/node.ts';
import { honestFile, honestHierFile, refusalOf, refusalOfShards, TWO_BY_TWO } from '../support/honest.ts';
import { type FileParts, openFile, sealFile } from '../support/planFile.ts';
import { buildShard, parseShard, SECTION, type ShardParts, WORD } from '../support/shardParts.ts';
import { toTables } from '../support/workloads.ts';

type Forge = (shards: ShardParts[]) => void;

/** Elements of one section of rank 0, whose three rows for node 1 land in slot 0, staging row 1 and slot 4. */
const of = (shards: ShardParts[], section: keyof typeof SECTION, rank = 0) =>
  shards[rank]!.sections[SECTION[section]]!;

/** Replaces `count` elements from `at` on; without new ones nothing else changes its place. */
function put(list: number[], at: number, ...values: number[]): void {
  list.splice(at, values.length, ...values);
}

describe('the honest hierarchical file', () => {
  it('survives being taken apart and sealed again', async () => {
    const file = await honestHierFile();
    const shards = file.shards.map((shard) => buildShard(parseShard(shard)));
    expect(shards).toEqual(file.shards);
    const { plan } = await decodePlan(sealFile({ ...file, shards }), nodeSha256);
    expect(isVerified(verifyPlan(plan))).toBe(true);
  });
});

describe('descriptors that lie', () => {
  it.each<[string, string, string, Forge]>([
    [
      'tokens of two forwarded rows exchanged',
      'E_FORWARD',
      '/ranks/0/forward/0',
      (shards) => put(of(shards, 'forwardToken'), 0, 1, 0),
    ],
    [
      'a token that the rank does not have',
      'E_FORWARD',
      '/ranks/0/forward/2',
      (shards) => put(of(shards, 'forwardToken'), 2, 4),
    ],
    [
      'a token that stays on its node',
      'E_FORWARD',
      '/ranks/0/forward/2',
      (shards) => put(of(shards, 'forwardToken'), 2, 3),
    ],
    ['a token twice', 'E_FORWARD', '/ranks/0/forward/1', (shards) => put(of(shards, 'forwardToken'), 1, 0)],
    [
      // Rank 2's token 2 has rows 4 and 2 at its forwarder; its partial sum would be looked for in row 2.
      'a row that lands in the higher slot of its token',
      'E_FORWARD',
      '/ranks/2/forward/1',
      (shards) => put(of(shards, 'forwardTarget', 2), 1, 4),
    ],
    [
      'a row that lands in the slot of another row',
      'E_FORWARD',
      '/ranks/0/forward/0',
      (shards) => put(of(shards, 'forwardTarget'), 0, 4),
    ],
    [
      'a row that lands in a slot of its token at another rank',
      'E_FORWARD',
      '/ranks/0/forward/2',
      (shards) => put(of(shards, 'forwardTarget'), 2, 1),
    ],
    [
      'a row that lands behind the buffer',
      'E_FORWARD',
      '/ranks/0/forward/0',
      (shards) => put(of(shards, 'forwardTarget'), 0, 8),
    ],
    [
      'a row that is staged though it could land',
      'E_FORWARD',
      '/ranks/0/forward/0',
      (shards) => {
        put(of(shards, 'forwardTarget'), 0, -1);
        shards[0]!.words[WORD.staged]! += 1;
      },
    ],
    [
      'a row that lands though it must be staged',
      'E_FORWARD',
      '/ranks/0/forward/1',
      (shards) => {
        put(of(shards, 'forwardTarget'), 1, 0);
        shards[0]!.words[WORD.staged]! -= 1;
      },
    ],
    [
      'a staging row too low',
      'E_FORWARD',
      '/ranks/0/forward/1',
      (shards) => put(of(shards, 'forwardTarget'), 1, -1),
    ],
    [
      'a staging row behind the staging buffer',
      'E_FORWARD',
      '/ranks/0/forward/1',
      (shards) => put(of(shards, 'forwardTarget'), 1, -4),
    ],
    [
      'the lowest i32 as staging row',
      'E_FORWARD',
      '/ranks/0/forward/1',
      (shards) => put(of(shards, 'forwardTarget'), 1, -(2 ** 31)),
    ],
    [
      'an entry moved to the next row',
      'E_FORWARD',
      '/ranks/0/distribute/2',
      (shards) => put(of(shards, 'distributeOffset'), 2, 2),
    ],
    [
      'an entry moved to the row before',
      'E_FORWARD',
      '/ranks/0/distribute/2',
      (shards) => put(of(shards, 'distributeOffset'), 1, 2),
    ],
    [
      'entries of two rows exchanged',
      'E_FORWARD',
      '/ranks/0/distribute/0',
      (shards) => put(of(shards, 'distributeEntry'), 0, 2, 0),
    ],
    [
      'entries of one row not in the order of k',
      'E_FORWARD',
      '/ranks/0/distribute/1',
      (shards) => put(of(shards, 'distributeEntry'), 1, 3, 2),
    ],
    [
      'an entry twice in place of another',
      'E_FORWARD',
      '/ranks/0/distribute/2',
      (shards) => put(of(shards, 'distributeEntry'), 2, 2),
    ],
    [
      'an entry of the own node distributed',
      'E_FORWARD',
      '/ranks/0/distribute/0',
      (shards) => put(of(shards, 'distributeEntry'), 0, 1),
    ],
    [
      'a masked entry distributed',
      'E_FORWARD',
      '/ranks/0/distribute/4',
      (shards) => put(of(shards, 'distributeEntry'), 4, 6),
    ],
    [
      'a dropped entry distributed',
      'E_FORWARD',
      '/ranks/3/distribute/2',
      (shards) => put(of(shards, 'distributeEntry', 3), 2, 2),
    ],
    [
      'an entry behind the end',
      'E_FORWARD',
      '/ranks/0/distribute/4',
      (shards) => put(of(shards, 'distributeEntry'), 4, 2 ** 32 - 1),
    ],
    [
      'offsets that do not start at 0',
      'E_FORWARD',
      '/ranks/0/distribute/1',
      (shards) => put(of(shards, 'distributeOffset'), 0, 1),
    ],
    [
      'offsets that decrease',
      'E_FORWARD',
      '/ranks/0/distribute/3',
      (shards) => put(of(shards, 'distributeOffset'), 1, 3, 1),
    ],
    [
      'an offset behind the list',
      'E_FORWARD',
      '/ranks/0/distribute/6',
      (shards) => put(of(shards, 'distributeOffset'), 2, 6),
    ],
    [
      'offsets that end before the list does',
      'E_FORWARD',
      '/ranks/0/distribute/4',
      (shards) => put(of(shards, 'distributeOffset'), 3, 4),
    ],
    [
      'offsets that end behind the list',
      'E_FORWARD',
      '/ranks/0/distribute',
      (shards) => put(of(shards, 'distributeOffset'), 3, 6),
    ],
    [
      'a staging row where the sender believes another',
      'E_FORWARD',
      '/ranks/0/forwardRow/1',
      (shards) => put(of(shards, 'forwardRow'), 1, 1),
    ],
    [
      'a staging row on the own node',
      'E_FORWARD',
      '/ranks/0/forwardRow/0',
      (shards) => put(of(shards, 'forwardRow'), 0, 1),
    ],
    [
      'a source whose staging rows start elsewhere',
      'E_FORWARD',
      '/ranks/2/stageRow/0',
      (shards) => put(of(shards, 'stageRow', 2), 0, 1),
    ],
    [
      'a source with a staging row too many, the buffer grown to fit',
      'E_FORWARD',
      '/ranks/2/stageRows/0',
      (shards) => {
        put(of(shards, 'stageRows', 2), 0, 4);
        shards[2]!.words[WORD.stageRows]! += 1;
      },
    ],
    [
      'staging rows for a rank of another group',
      'E_FORWARD',
      '/ranks/2/stageRows/1',
      (shards) => put(of(shards, 'stageRows', 2), 1, 1),
    ],
    [
      // Rank 2's tables are made to agree with the claim that rank 0 sends a row less.
      'a row for a node that is not counted, agreed by its forwarder',
      'E_FORWARD',
      '/ranks/0/forward',
      (shards) => {
        put(of(shards, 'forwardRows'), 1, 2);
        put(of(shards, 'stageRows', 2), 0, 2);
        shards[2]!.words[WORD.stageRows]! -= 1;
      },
    ],
    [
      'a row for the own node, agreed by nobody',
      'E_FORWARD',
      '/ranks/0/forwardRows/0',
      (shards) => {
        put(of(shards, 'forwardRows'), 0, 1, 2);
        put(of(shards, 'stageRows', 2), 0, 2);
        shards[2]!.words[WORD.stageRows]! -= 1;
      },
    ],
    [
      'rows counted in 32 bits that sum to the right number',
      'E_FORWARD',
      '/ranks/1/forward',
      (shards) => put(of(shards, 'forwardRows', 1), 0, 2 ** 32 - 1, 2),
    ],
    [
      'a row that no token needs, agreed by its forwarder',
      'E_FORWARD',
      '/ranks/1/forward/1',
      (shards) => {
        put(of(shards, 'forwardRows', 1), 1, 2);
        of(shards, 'forwardToken', 1).push(1);
        of(shards, 'forwardTarget', 1).push(-2);
        of(shards, 'distributeOffset', 1).push(2);
        put(of(shards, 'forwardSlice', 1), 2, 2);
        shards[1]!.words[WORD.staged]! += 1;
        put(of(shards, 'stageRows', 3), 1, 2);
        shards[3]!.words[WORD.stageRows]! += 1;
      },
    ],
    [
      // Rank 1's token 0 crosses twice, once for each of its entries: that is what de-duplication must not do.
      'a token that crosses to a node twice, agreed by its forwarder',
      'E_FORWARD',
      '/ranks/1/distribute/1',
      (shards) => {
        put(of(shards, 'forwardRows', 1), 1, 2);
        of(shards, 'forwardToken', 1).push(0);
        of(shards, 'forwardTarget', 1).push(-2);
        of(shards, 'distributeOffset', 1).splice(1, 1, 1, 2);
        put(of(shards, 'forwardSlice', 1), 2, 2);
        shards[1]!.words[WORD.staged]! += 1;
        put(of(shards, 'stageRows', 3), 1, 2);
        shards[3]!.words[WORD.stageRows]! += 1;
      },
    ],
    [
      'a forwarding slice too long',
      'E_SLICE',
      '/ranks/0/forwardSlices/0',
      (shards) => put(of(shards, 'forwardSlice'), 2, 4),
    ],
    [
      'a forwarding slice to the own node',
      'E_SLICE',
      '/ranks/0/forwardSlices/0',
      (shards) => put(of(shards, 'forwardSlice'), 0, 0),
    ],
    [
      'a forwarding slice cut in two',
      'E_SLICE',
      '/ranks/0/forwardSlices/0',
      (shards) => of(shards, 'forwardSlice').splice(0, 3, 1, 0, 1, 1, 1, 2),
    ],
    [
      'no forwarding slice',
      'E_SLICE',
      '/ranks/0/forwardSlices/0',
      (shards) => of(shards, 'forwardSlice').splice(0),
    ],
    [
      'a forwarding slice too many',
      'E_SLICE',
      '/ranks/0/forwardSlices',
      (shards) => of(shards, 'forwardSlice').push(0, 0, 0),
    ],
    [
      'a direct slice to another node',
      'E_SLICE',
      '/ranks/0/slices/0',
      (shards) => put(of(shards, 'slice'), 0, 2),
    ],
    [
      'a direct stream that starts with a forwarded entry',
      'E_STREAM',
      '/ranks/0/send/0',
      (shards) => put(of(shards, 'sendEntry'), 0, 0),
    ],
    [
      'a direct entry behind the end',
      'E_SEGMENT_BOUNDS',
      '/ranks/0/send/1',
      (shards) => put(of(shards, 'sendEntry'), 1, 8),
    ],
  ])('%s: %s', async (_, code, path, forge) => {
    const error = await refusalOfShards(await honestHierFile(), forge);
    expect(`${error.code} ${error.details.path}`).toBe(`${code} ${path}`);
    expect(error.message.startsWith(`${path}: `)).toBe(true);
  });

  it.each<[string, Forge]>([
    ['a staging buffer with a row too many', (shards) => void (shards[2]!.words[WORD.stageRows]! += 1)],
    ['another number of staged rows', (shards) => void (shards[0]!.words[WORD.staged]! -= 1)],
    ['a forwarded token without a target', (shards) => of(shards, 'forwardTarget').pop()],
    ['a target too many', (shards) => of(shards, 'forwardTarget').push(-4)],
    ['an offset too few', (shards) => of(shards, 'distributeOffset').pop()],
    ['an entry removed from its row', (shards) => of(shards, 'distributeEntry').pop()],
    ['an entry distributed and sent directly', (shards) => of(shards, 'distributeEntry').push(1)],
    [
      'an entry sent directly to another node instead of being distributed',
      (shards) => {
        of(shards, 'sendEntry').push(0);
        of(shards, 'distributeEntry').shift();
        of(shards, 'distributeOffset').splice(0, 4, 0, 0, 2, 4);
        // The list lengths agree with each other; the direct runs do not hold a third row.
        shards[0]!.words[WORD.kept]! += 1;
        shards[0]!.words[WORD.masked]! -= 1;
      },
    ],
    ['nodes without a count', (shards) => of(shards, 'forwardRows').pop()],
    ['a node too many', (shards) => of(shards, 'forwardRow').push(0)],
    ['a source without a staging row', (shards) => of(shards, 'stageRow').pop()],
    ['a source too many', (shards) => of(shards, 'stageRows').push(0)],
    ['a slice of two words', (shards) => of(shards, 'forwardSlice').pop()],
    ['a reserved word in use', (shards) => void (shards[3]!.words[WORD.reserved] = 2)],
    ['a tile order', (shards) => of(shards, 'tileOrder').push(0)],
  ])('%s: E_SHARD_HEAD', async (_, forge) => {
    const error = await refusalOfShards(await honestHierFile(), forge);
    expect(error.code).toBe('E_SHARD_HEAD');
    expect(error.details.path).toMatch(/^\/ranks\/\d\/head$/);
  });

  it('any other number in any place of the hierarchical sections', async () => {
    const file = await honestHierFile();
    const codes = new Map<string, number>();
    for (const [rank, shard] of file.shards.entries()) {
      for (let section: number = SECTION.forwardRow; section <= SECTION.stageRows; section++) {
        const { length } = parseShard(shard).sections[section]!;
        for (let at = 0; at < length; at++) {
          for (const change of [1, -1, 2, 64, 2 ** 31]) {
            const { code, details } = await refusalOfShards(file, (shards) => {
              shards[rank]!.sections[section]![at]! += change;
            });
            codes.set(code, (codes.get(code) ?? 0) + 1);
            // Rank 0 compares what its sources claim before they are looked at themselves.
            expect(details.path).toMatch(/^\/ranks\/\d\/(forward|distribute|stageRow|head)/);
          }
        }
      }
    }
    expect([...codes.keys()].sort()).toEqual(['E_FORWARD', 'E_SLICE']);
    expect(codes.get('E_FORWARD')).toBeGreaterThan(400);
  });

  it('rows that no staging buffer could hold, reported like any other defect', async () => {
    const file = await honestHierFile();
    const shards = file.shards.map(parseShard);
    put(of(shards, 'forwardRows', 2), 0, 2 ** 31);
    const { plan } = await decodePlan(sealFile({ ...file, shards: shards.map(buildShard) }), nodeSha256);
    const found: string[] = [];
    expect(verifyPlan(plan, (error) => found.push(`${error.code} ${error.details.path}`))).toBeUndefined();
    expect(found).toEqual(['E_FORWARD /ranks/2/forward']);
  });

  it('reports the defects of several ranks, and accepts nothing', async () => {
    const file = await honestHierFile();
    const shards = file.shards.map(parseShard);
    put(of(shards, 'forwardTarget'), 0, 4);
    put(of(shards, 'distributeEntry', 3), 2, 2);
    put(of(shards, 'forwardSlice', 1), 2, 2);
    const { plan } = await decodePlan(sealFile({ ...file, shards: shards.map(buildShard) }), nodeSha256);
    const found: string[] = [];
    expect(verifyPlan(plan, (error) => found.push(`${error.code} ${error.details.path}`))).toBeUndefined();
    expect(found).toEqual([
      'E_FORWARD /ranks/0/forward/0',
      'E_SLICE /ranks/1/forwardSlices/0',
      'E_FORWARD /ranks/3/distribute/2',
    ]);
    expect(isVerified(plan)).toBe(false);
  });
});

describe('a header that lies', () => {
  const withCore = (file: FileParts, core: Record<string, unknown>) =>
    sealFile({ ...file, core: { ...file.core, ...core } });

  it.each<[string, string, Record<string, unknown>]>([
    ['a group twice on a node', 'E_PLAN_HEADER', { groups: [0, 0, 0, 1] }],
    ['a group that does not exist', 'E_PLAN_HEADER', { groups: [0, 1, 0, 2] }],
    ['a negative group', 'E_PLAN_CANONICAL', { groups: [0, 1, 0, -1] }],
    ['a group that is no number', 'E_PLAN_HEADER', { groups: [0, 1, 0, 'x'] }],
    ['a rank without a group', 'E_PLAN_HEADER', { groups: [0, 1, 0] }],
    ['a group too many', 'E_PLAN_HEADER', { groups: [0, 1, 0, 1, 0] }],
    ['no groups', 'E_PLAN_HEADER', { groups: [] }],
    ['groups that are no list', 'E_PLAN_HEADER', { groups: 'static' }],
    ['groups that are null', 'E_PLAN_CANONICAL', { groups: null }],
    ['an unknown rule', 'E_PLAN_HEADER', { rule: 'hunch' }],
    ['best as a rule, which is none', 'E_PLAN_HEADER', { rule: 'best' }],
    ['no rule', 'E_PLAN_HEADER', { rule: 'none' }],
    ['a rule that is a number', 'E_PLAN_HEADER', { rule: 1 }],
    ['an unknown balance', 'E_PLAN_HEADER', { balance: 'none' }],
    ['an unknown partial', 'E_PLAN_HEADER', { partial: 'bf16' }],
    ['a strategy that is not settled', 'E_PLAN_HEADER', { strategy: 'auto' }],
    ['groups of one node', 'E_PLAN_HEADER', { ranksPerNode: 4 }],
    ['groups of another pairing', 'E_FORWARD', { groups: [0, 1, 1, 0] }],
    ['another slice size', 'E_SLICE', { sliceRows: 1 }],
    ['a flat plan with groups', 'E_PLAN_HEADER', { strategy: 'flat', balance: 'none', partial: 'none' }],
    [
      'a flat plan with a rule',
      'E_PLAN_HEADER',
      { strategy: 'flat', balance: 'none', partial: 'none', groups: [] },
    ],
    [
      'a flat plan with a balance',
      'E_PLAN_CANONICAL',
      { strategy: 'flat', partial: 'none', groups: [], rule: 'none' },
    ],
    [
      'a flat plan with partial sums',
      'E_PLAN_CANONICAL',
      { strategy: 'flat', balance: 'none', groups: [], rule: 'none' },
    ],
    [
      'a flat plan with forwarding shards',
      'E_SHARD_HEAD',
      { strategy: 'flat', balance: 'none', partial: 'none', groups: [], rule: 'none' },
    ],
    ['nodes of 1 rank', 'E_SHARD_HEAD', { ranksPerNode: 1, groups: [0, 0, 0, 0] }],
  ])('%s: %s', async (_, code, core) => {
    const error = await refusalOf(withCore(await honestHierFile(), core));
    expect(error.code).toBe(code);
  });

  it('groups that no rule gives are refused, though the shards agree with them', async () => {
    const error = await refusalOf(withCore(await honestHierFile(), { groups: [1, 0, 1, 0] }));
    expect(error.toString()).toMatch(/^E_FORWARD \/header\/core\/groups\/0: rank 0 is in group 1, not 0/);
  });

  it('a rule that the options do not give is refused', async () => {
    const error = await refusalOf(withCore(await honestHierFile(), { balance: 'static', rule: 'rotate' }));
    expect(error.toString()).toMatch(/^E_FORWARD \/header\/core\/rule: rule rotate, not static/);
  });

  it.each<[string, string, Record<string, unknown>]>([
    ['without groups', 'E_PLAN_HEADER', {}],
    ['without a rule', 'E_PLAN_HEADER', { groups: [0, 1, 2, 3] }],
    ['with flat shards', 'E_SHARD_HEAD', { groups: [0, 1, 2, 3], rule: 'static' }],
  ])('a hierarchical plan %s: %s', async (_, code, core) => {
    const hier = { strategy: 'hier', balance: 'best', partial: 'payload', ...core };
    const error = await refusalOf(withCore(await honestFile(), hier));
    expect(error.code).toBe(code);
  });

  it('partial sums in f32 are another plan id, the shards the same', async () => {
    const planner = await loadPlanner();
    const tables = toTables(TWO_BY_TWO.routing, 2);
    const files = [];
    for (const partial of ['payload', 'f32'] as const) {
      files.push(await encodePlan(planner.planAll(tables, { ...TWO_BY_TWO.options, partial }), nodeSha256));
    }
    const [payload, f32] = files as [(typeof files)[0], (typeof files)[0]];
    expect(payload.planId).not.toBe(f32.planId);
    expect(openFile(payload.bytes).shards).toEqual(openFile(f32.bytes).shards);
  });
});
