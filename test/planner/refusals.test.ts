import { beforeAll, describe, expect, it } from 'vitest';
import {
  FuscoError,
  gatherFacts,
  type Planner,
  type PlanOptions,
  type RoutingTable,
  resolveOptions,
} from '../../planner/index.ts';
import { loadPlanner } from '../../planner/node.ts';
import { ID_DTYPES, type IdDtype, makeRouting, toTables } from '../support/workloads.ts';

let planner: Planner;
beforeAll(async () => {
  planner = await loadPlanner();
});

/** The FuscoError that `action` throws. */
function refusal(action: () => unknown): FuscoError {
  try {
    action();
  } catch (error) {
    expect(error).toBeInstanceOf(FuscoError);
    const fusco = error as FuscoError;
    expect(fusco.message).not.toContain('\n');
    expect(fusco.hint.length).toBeGreaterThan(10);
    return fusco;
  }
  throw new Error('nothing was refused');
}

const table = (ids: number[], topk: number): RoutingTable => ({
  ids: Int32Array.from(ids),
  tokens: ids.length / topk,
  topk,
});

describe('ids', () => {
  const options: PlanOptions = { ranks: 8, experts: 256 };

  /** A sound routing of 8 ranks with one entry replaced. */
  function spoiled(rank: number, token: number, k: number, id: number, dtype: IdDtype = 'i32') {
    const routing = makeRouting({ family: 'balanced', seed: 1, ranks: 8, tokens: 9, topk: 8, experts: 256 });
    const copy = routing.map((tokens) => tokens.map((ids) => [...ids]));
    copy[rank]![token]![k] = id;
    return { routing: copy, tables: toTables(copy, 8, dtype) };
  }

  it.each([256, 257, 65535, 2147483647, -2, -2147483648])(
    'refuses id %d of 256 by rank, token and k',
    (id) => {
      const error = refusal(() => planner.planAll(spoiled(5, 7, 3, id).tables, options));
      expect(error.code).toBe('E_ROUTING_ID');
      expect(error.details).toMatchObject({ rank: 5, token: 7, k: 3, value: id, limit: 255 });
      expect(error.message).toContain('rank 5 token 7 k 3');
    },
  );

  it.each(ID_DTYPES)('refuses an id out of range in %s', (dtype) => {
    // 100 experts, so that the bad id fits every dtype.
    const routing = [
      [[0, 99]],
      [
        [1, 2],
        [3, 100],
      ],
    ];
    const error = refusal(() => planner.planAll(toTables(routing, 2, dtype), { ranks: 2, experts: 100 }));
    expect(error.code).toBe('E_ROUTING_ID');
    expect(error.details).toMatchObject({ rank: 1, token: 1, k: 1 });
    expect(Number(error.details.value)).toBe(100);
  });

  it('takes all ones for -1 in signed ids only', () => {
    const options = { ranks: 1, experts: 4 };
    const signed = [
      new Int8Array([-1]),
      new Int16Array([-1]),
      new Int32Array([-1]),
      new BigInt64Array([-1n]),
    ];
    for (const ids of signed) {
      expect(planner.planAll([{ ids, tokens: 1, topk: 1 }], options).shards[0]!.masked).toBe(1);
    }
    const unsigned = [
      new Uint8Array([255]),
      new Uint16Array([65535]),
      new Uint32Array([4294967295]),
      new BigUint64Array([2n ** 64n - 1n]),
    ];
    for (const ids of unsigned) {
      expect(refusal(() => planner.planAll([{ ids, tokens: 1, topk: 1 }], options)).code).toBe(
        'E_ROUTING_ID',
      );
    }
  });

  it('does not cut 64-bit ids to 32 bits', () => {
    for (const ids of [new BigInt64Array([2n ** 32n]), new BigUint64Array([2n ** 63n + 1n])]) {
      const error = refusal(() => planner.planAll([{ ids, tokens: 1, topk: 1 }], { ranks: 1, experts: 4 }));
      expect(error.code).toBe('E_ROUTING_ID');
      expect(error.details.value).toBe(ids[0]);
    }
  });

  it.each(['i16', 'i64'] as const)(
    'refuses the same expert twice in one token, at the second (%s)',
    (dtype) => {
      const { routing } = spoiled(2, 4, 0, 17, dtype);
      routing[2]![4] = [17, 1, 2, 3, 4, 17, 5, 6];
      const error = refusal(() => planner.planAll(toTables(routing, 8, dtype), options));
      expect(error.code).toBe('E_ROUTING_DUPLICATE');
      expect(error.details).toMatchObject({ rank: 2, token: 4, k: 5 });
      expect(Number(error.details.value)).toBe(17);
    },
  );

  it('refuses duplicates among replicated experts too, and takes -1 twice', () => {
    const options = { ranks: 2, experts: 2, placement: [[0, 1], 1] };
    const error = refusal(() => planner.planAll([table([0, 1, -1, -1], 2), table([1, 1], 2)], options));
    expect(error.code).toBe('E_ROUTING_DUPLICATE');
    expect(error.details).toMatchObject({ rank: 1, token: 0, k: 1, value: 1 });
    const bad = refusal(() => planner.planAll([table([0, 2], 2), table([1, 0], 2)], options));
    expect(bad.details).toMatchObject({ rank: 0, token: 0, k: 1, value: 2 });
  });

  it('takes the same expert in neighbouring tokens', () => {
    const plan = planner.planAll([table([3, 1, 3, 0], 2)], { ranks: 1, experts: 4 });
    expect(plan.shards[0]!.kept).toBe(4);
  });
});

describe('shapes', () => {
  const one = { ranks: 1, experts: 4 };

  it.each([
    ['ids that are too few', { ids: new Int32Array(3), tokens: 2, topk: 2 }],
    ['ids that are too many', { ids: new Int32Array(5), tokens: 2, topk: 2 }],
    ['topk 0', { ids: new Int32Array(0), tokens: 2, topk: 0 }],
    ['topk 257', { ids: new Int32Array(257), tokens: 1, topk: 257 }],
    ['topk 1.5', { ids: new Int32Array(3), tokens: 2, topk: 1.5 }],
  ])('refuses %s', (_, bad) => {
    expect(refusal(() => planner.planAll([bad], one)).code).toBe('E_ROUTING_SHAPE');
  });

  it.each([-1, 0.5, Number.NaN, 2 ** 31])('refuses %d tokens', (tokens) => {
    const bad = { ids: new Int32Array(0), tokens, topk: 1 };
    expect(refusal(() => planner.planAll([bad], one)).code).toBe('E_LIMIT');
  });

  it('refuses another topk on a later rank, by rank', () => {
    const tables = [table([0, 1], 2), table([0, 1], 2), table([0], 1)];
    const error = refusal(() => planner.planAll(tables, { ranks: 3, experts: 4 }));
    expect(error.code).toBe('E_ROUTING_SHAPE');
    expect(error.details.rank).toBe(2);
  });

  it.each([[new Float32Array(2)], [new Float64Array(2)], [new Uint8ClampedArray(2)], [[0, 1]]])(
    'refuses ids that are not integers: %o',
    (ids) => {
      const bad = { ids: ids as never, tokens: 2, topk: 1 };
      expect(refusal(() => planner.planAll([bad], one)).code).toBe('E_ROUTING_DTYPE');
    },
  );

  it.each([
    [0, 0],
    [0, 2],
    [7, 8],
    [8, 7],
  ])('refuses %d tables for %d ranks', (tables, ranks) => {
    const routing = Array.from({ length: tables }, () => table([0], 1));
    const { code, message } = refusal(() => planner.planAll(routing, { ranks, experts: 8 }));
    expect(code).toBe('E_RANKS');
    expect(message).toContain(String(ranks));
  });
});

describe('options', () => {
  it.each<[string, Record<string, unknown>]>([
    ['no ranks', { ranks: 0 }],
    ['too many ranks', { ranks: 4097 }],
    ['ranks as text', { ranks: '4' }],
    ['no experts', { experts: 0 }],
    ['experts with a fraction', { experts: 2.5 }],
    ['too many experts', { experts: 65536 }],
    ['align 0', { align: 0 }],
    ['align beyond 2^20', { align: 2 ** 20 + 1 }],
    ['align NaN', { align: Number.NaN }],
    ['capacity below 0', { capacity: -1 }],
    ['capacity 2^31', { capacity: 2 ** 31 }],
    ['ranksPerNode 0', { ranksPerNode: 0 }],
    ['ranksPerNode that does not divide', { ranksPerNode: 3 }],
    ['ranksPerNode above ranks', { ranksPerNode: 8 }],
    ['hidden 0', { hidden: 0 }],
    ['rows of more than 16 MiB', { hidden: 2 ** 23 + 1, dtype: 'bf16' }],
    ['an unknown dtype', { dtype: 'int4' }],
    ['a dtype from the prototype', { dtype: 'toString' }],
    ['an unknown strategy', { strategy: 'tree' }],
    ['sliceBytes 0', { sliceBytes: 0 }],
  ])('refuses %s with E_OPTION', (_, bad) => {
    const options = { ranks: 4, experts: 8, ...bad } as PlanOptions;
    expect(refusal(() => resolveOptions(options, 2)).code).toBe('E_OPTION');
  });

  it.each([0, 257, 1.5])('refuses topk %d', (topk) => {
    expect(refusal(() => resolveOptions({ ranks: 4, experts: 8 }, topk)).code).toBe('E_OPTION');
  });

  it('fills in the defaults', () => {
    const spec = resolveOptions({ ranks: 12, experts: 8 }, 2);
    expect(spec).toMatchObject({
      ranksPerNode: 6,
      nodes: 2,
      hidden: 7168,
      dtype: 'bf16',
      rowBytes: 14336,
      align: 1,
      capacity: 0,
      strategy: 'flat',
      sliceRows: 73,
    });
    const nodeSizes = [1, 2, 7, 8, 9, 11, 16, 64, 4096].map(
      (ranks) => resolveOptions({ ranks, experts: 8 }, 2).ranksPerNode,
    );
    expect(nodeSizes).toEqual([1, 2, 7, 8, 3, 1, 8, 8, 8]);
  });

  it('takes the ends of every range', () => {
    const widest = { ranks: 4096, experts: 65535, align: 2 ** 20, capacity: 2 ** 31 - 1, hidden: 2 ** 24 };
    expect(resolveOptions({ ...widest, dtype: 'fp8' }, 256).placement.instances).toBe(65535);
    expect(resolveOptions({ ranks: 1, experts: 1, sliceBytes: 1 }, 1).sliceRows).toBe(1);
  });
});

describe('placement', () => {
  it.each<[string, unknown]>([
    ['too short', [0]],
    ['too long', [0, 1, 2, 3, 0]],
    ['a rank that does not exist', [0, 1, 2, 4]],
    ['a negative rank', [0, 1, 2, -1]],
    ['a fraction', [0, 1, 2, 0.5]],
    ['text', [0, 1, 2, '3']],
    ['a hole', [0, 1, 2, undefined]],
    ['null', [0, 1, 2, null]],
    ['an expert that lives nowhere', [0, 1, 2, []]],
    ['an expert twice on one rank', [0, 1, 2, [3, 3]]],
    ['a list of lists', [0, 1, 2, [[3]]]],
    ['not an array', { 0: 0 }],
    ['a number', 3],
  ])('refuses %s with E_PLACEMENT', (_, placement) => {
    const options = { ranks: 4, experts: 4, placement } as unknown as PlanOptions;
    expect(refusal(() => resolveOptions(options, 1)).code).toBe('E_PLACEMENT');
  });

  it('names the expert', () => {
    const options = { ranks: 4, experts: 3, placement: [0, [1, 9], 2] };
    expect(refusal(() => resolveOptions(options, 1)).details).toMatchObject({
      path: '/placement/1',
      limit: 3,
    });
  });

  it('refuses more instances than a plan can number', () => {
    const everywhere = Array.from({ length: 64 }, (_, rank) => rank);
    const placement = new Array<number[]>(1024).fill(everywhere);
    const error = refusal(() => resolveOptions({ ranks: 64, experts: 1024, placement }, 1));
    expect(error.code).toBe('E_LIMIT');
    expect(error.message).toContain('65536');
  });
});

describe('limits of rows', () => {
  it('refuses a receive buffer of 2^31 rows, by rank', () => {
    // 2048 experts on rank 1, one row each, padded to 2^20 rows: 2^31 rows, one more than a slot can name.
    const experts = 2049;
    const placement = Array.from({ length: experts }, (_, expert) => (expert === 0 ? 0 : 1));
    const options = { ranks: 2, experts, align: 2 ** 20, placement };
    const all = Array.from({ length: 2048 }, (_, token) => token + 1);
    const error = refusal(() => planner.planAll([table(all, 1), table([0], 1)], options));
    expect(error.code).toBe('E_LIMIT');
    expect(error.details.rank).toBe(1);
    const fits = planner.planAll([table(all.slice(1), 1), table([0], 1)], options);
    expect(fits.shards[1]!.recvRows).toBe(2047 * 2 ** 20);
  });
});

describe('facts', () => {
  const options: PlanOptions = { ranks: 2, experts: 4 };
  const tables = [table([0, 1, 2, 3], 2), table([3, 0], 2)];
  const digest = (byte: number) => new Uint8Array(32).fill(byte);

  function gathered() {
    const spec = resolveOptions(options, 2);
    const routed = tables.map((one, rank) => planner.routeRank(rank, one, spec));
    return { spec, routed, parts: routed.map(({ counts }) => ({ counts, optionsDigest: digest(1) })) };
  }

  it('refuses facts of too few or too many ranks', () => {
    const { spec, parts } = gathered();
    expect(refusal(() => gatherFacts(spec, parts.slice(1))).code).toBe('E_FACTS');
    expect(refusal(() => gatherFacts(spec, [...parts, parts[0]!])).code).toBe('E_FACTS');
    expect(refusal(() => gatherFacts(spec, [])).code).toBe('E_FACTS');
  });

  it('names the ranks whose options differ', () => {
    const { spec, parts } = gathered();
    const error = refusal(() => gatherFacts(spec, [parts[0]!, { ...parts[1]!, optionsDigest: digest(2) }]));
    expect(error.code).toBe('E_FACTS');
    expect(error.message).toContain('ranks 1 ');
    expect(error.details.rank).toBe(1);
  });

  it('refuses counts of another length', () => {
    const { spec, parts, routed } = gathered();
    const short = { ...parts[1]!, counts: parts[1]!.counts.slice(1) };
    expect(refusal(() => gatherFacts(spec, [parts[0]!, short])).details.rank).toBe(1);
    const error = refusal(() => planner.planRank(routed[0]!, { counts: new Uint32Array(7) }, spec));
    expect(error.code).toBe('E_FACTS');
  });

  it('refuses facts that contradict the own routing', () => {
    const { spec, parts, routed } = gathered();
    const facts = gatherFacts(spec, parts);
    facts.counts[4 + 3]! += 1;
    const error = refusal(() => planner.planRank(routed[1]!, facts, spec));
    expect(error.code).toBe('E_FACTS');
    expect(error.details.rank).toBe(1);
    expect(error.message).toContain('instance 3');
    // Rank 0's own row is untouched: it plans with what it was told about rank 1.
    expect(planner.planRank(routed[0]!, facts, spec).rank).toBe(0);
  });

  it('refuses facts whose sums pass the limit of rows', () => {
    const { spec, parts, routed } = gathered();
    const facts = gatherFacts(spec, parts);
    facts.counts[4] = 2 ** 31 - 1;
    expect(refusal(() => planner.planRank(routed[0]!, facts, spec)).code).toBe('E_LIMIT');
  });

  it.each([-1, 2, 0.5])('refuses rank %d of 2', (rank) => {
    const { spec } = gathered();
    expect(refusal(() => planner.routeRank(rank, tables[0]!, spec)).code).toBe('E_RANKS');
  });
});
