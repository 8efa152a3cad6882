// Planning on GPUs: the shards of the planner's Wasm, for random routings, every id type, bad ids, bounds, and in captured
// graphs.

import assert from 'node:assert/strict';
import { type Cuda, type DeviceBuffer, nativeCuda, openCuda } from '../../executor/backends/cuda/context.ts';
import type { IdDtype } from '../../executor/backends/types.ts';
import { type NativeBufferedPlan, type NativeDevicePlanner, needAddon } from '../../executor/native/addon.ts';
import { nativeOptions, planAllNatively } from '../../executor/native/planner.ts';
import { loadPlanner } from '../../planner/node.ts';
import type { RoutingTable } from '../../planner/routing.ts';
import { type PlanOptions, resolveOptions } from '../../planner/spec.ts';
import { randomPlan } from '../support/randomPlans.ts';
import { ID_DTYPES, makeRouting, toTables } from '../support/workloads.ts';
import { Buffers, type GpuCase, POISON, withoutSmallPlans } from './support.ts';

const RANDOM_CASES = 400;
const PER_CASE = 50;

/** A planner over all GPUs, with plan buffers and ids in device memory. Everything is closed together. */
class Subject implements Disposable {
  readonly cuda: Cuda;
  readonly buffers: Buffers;
  readonly planner: NativeDevicePlanner;
  readonly options: PlanOptions;

  constructor(options: PlanOptions, topk: number, maxTokens: number, maxRecvRows = 0) {
    const { DevicePlanner } = needAddon('cuda');
    this.options = options;
    this.cuda = openCuda(options.ranks);
    this.buffers = new Buffers(this.cuda);
    const spec = nativeOptions(resolveOptions(options, topk));
    this.planner = new DevicePlanner(nativeCuda(this.cuda), spec, { maxTokens, maxRecvRows });
  }

  planBuffers(): DeviceBuffer[] {
    return this.buffers.poisoned(Array.from({ length: this.options.ranks }, () => this.planner.bufferBytes));
  }

  plan(tables: readonly RoutingTable[], into: readonly DeviceBuffer[], ids = this.up(tables)) {
    const { BufferedPlan } = needAddon('cuda');
    const given = tables.map(({ ids: values, tokens, topk }, rank) => {
      return { ids: ids[rank]!, dtype: dtypeOf(values), tokens, topk };
    });
    return new BufferedPlan(this.planner, into, given);
  }

  up(tables: readonly RoutingTable[]): DeviceBuffer[] {
    // A rank without tokens has an address as well.
    return this.buffers.up(tables.map(({ ids }) => (ids.length > 0 ? ids : new Uint8Array(8))));
  }

  words(rank: number, address: bigint, count: number): Uint32Array {
    const words = new Uint32Array(count);
    this.cuda.copy(rank, words, { address, bytes: 4 * count }, 4 * count);
    this.cuda.synchronize();
    return words;
  }

  [Symbol.dispose](): void {
    this.buffers[Symbol.dispose]();
    this.planner.close();
    this.cuda.close();
  }
}

function dtypeOf(ids: RoutingTable['ids']): IdDtype {
  const kind = /^(Big)?U/.test(ids.constructor.name) ? 'u' : 'i';
  return `${kind}${8 * ids.BYTES_PER_ELEMENT}` as IdDtype;
}

function assertShards(
  note: string,
  plan: NativeBufferedPlan,
  expected: readonly { bytes: Uint8Array }[],
): void {
  for (const [rank, { bytes }] of expected.entries()) {
    const found = plan.shard(rank);
    if (Buffer.compare(found, bytes) === 0) continue;
    const at = found.findIndex((byte, i) => byte !== bytes[i]);
    assert.fail(`${note}: the shard of rank ${rank} (${bytes.length} bytes) differs at byte ${at}`);
  }
}

/** Plans on the device, by one kernel if the plan is small and by one for each pass, and compares every shard. */
async function compare(note: string, options: PlanOptions, tables: readonly RoutingTable[]): Promise<void> {
  const wasm = await loadPlanner();
  const maxTokens = Math.max(1, ...tables.map(({ tokens }) => tokens));
  using subject = new Subject(options, tables[0]!.topk, maxTokens);
  const expected = wasm.planAll(tables, options);
  const check = async (kernels: string) => {
    const plan = subject.plan(tables, subject.planBuffers());
    assertShards(`${note}, ${kernels}`, plan, expected.shards);
    for (const [rank, { recvRows }] of expected.shards.entries())
      assert.equal(plan.recvRows(rank), recvRows, note);
    plan.close();
  };
  await check('as it is');
  await withoutSmallPlans(() => check('a kernel for each pass'));
}

const randomCases = Array.from({ length: RANDOM_CASES / PER_CASE }, (_, part): GpuCase => {
  const first = part * PER_CASE;
  return {
    name: `planning: random routings ${first} to ${first + PER_CASE - 1}`,
    async run() {
      for (let number = first; number < first + PER_CASE; number++) {
        const { options, tables } = randomPlan(number);
        await compare(`case ${number}`, options, tables);
      }
    },
  };
});

/** `most` - rank tokens. */
function longTables(topk: number, dtype: IdDtype, most = 4096): RoutingTable[] {
  const seed = { family: 'hotExperts', seed: 3, ranks: 8, tokens: 256, topk, experts: 256 } as const;
  const routing = makeRouting(seed).map((tokens, rank) =>
    Array.from({ length: most - rank }, (_, i) => tokens[(i * 7 + rank) % tokens.length]!),
  );
  return toTables(routing, topk, dtype);
}

const sizeCases = [
  { strategy: 'flat', ranksPerNode: 8 },
  { strategy: 'hier', ranksPerNode: 1 },
  { strategy: 'hier', ranksPerNode: 2 },
  { strategy: 'hier', ranksPerNode: 4, capacity: 900 },
].map((options): GpuCase => {
  const { strategy, ranksPerNode } = options;
  return {
    name: `planning: 4096 - rank tokens, ${strategy}, ${ranksPerNode} ranks of a node`,
    run: () =>
      compare(
        'long',
        { experts: 256, ranks: 8, align: 128, ...options } as PlanOptions,
        longTables(8, 'i64'),
      ),
  };
});

/** As many tokens as one block plans, native/test/test_plan_passes.cc says, and a few more. */
const SMALL_TOKENS = { flat: 472, hier: 336 };
const boundCases = (['flat', 'hier'] as const).flatMap((strategy) =>
  [0, 1, 40].map((more): GpuCase => {
    const tokens = SMALL_TOKENS[strategy] + more;
    return {
      name: `planning: ${tokens} - rank tokens, ${strategy}, at the bound of small plans`,
      run: () => {
        const options: PlanOptions = { experts: 256, ranks: 8, ranksPerNode: 1, strategy };
        return compare('bound', options, longTables(8, 'i64', tokens));
      },
    };
  }),
);

/** Counters of targets, and entries of tiles, that do and do not fit shared memory. */
const targetCases = [700, 900, 1100, 2500].map((experts): GpuCase => {
  return {
    name: `planning: ${experts} experts`,
    async run() {
      const routing = makeRouting({
        ...{ family: 'raggedSources', seed: 7, ranks: 4, tokens: 600, topk: 4, experts },
      });
      for (const strategy of ['flat', 'hier'] as const) {
        await compare(strategy, { experts, ranks: 4, ranksPerNode: 2, strategy }, toTables(routing, 4));
      }
    },
  };
});

/** Ranks of a cluster: 1, 2, 4 or 8; other numbers plan by a kernel for each pass. */
const clusterCases = [1, 2, 3, 4, 5, 8, 9, 40].map((ranks): GpuCase => {
  return {
    name: `planning: small plans of ${ranks} ranks`,
    async run() {
      for (const tokens of [1, 128]) {
        const experts = 16 * ranks;
        const routing = makeRouting({
          ...{ family: 'raggedSources', seed: tokens, ranks, tokens, topk: 8, experts, masked: 0.1 },
        });
        for (const strategy of ['flat', 'hier'] as const) {
          const options: PlanOptions = { experts, ranks, ranksPerNode: 1, strategy, capacity: 40, align: 16 };
          await compare(`${strategy}, ${tokens} tokens`, options, toTables(routing, 8));
        }
      }
    },
  };
});

const SMALL: PlanOptions = { experts: 8, ranks: 2, ranksPerNode: 1, strategy: 'hier' };

/** Eight valid ids of two tokens at rank 1; rank 0 has one token. */
function smallTables(ids: Int32Array): RoutingTable[] {
  return [
    { ids: Int32Array.of(0, 1, 2), tokens: 1, topk: 3 },
    { ids, tokens: 2, topk: 3 },
  ];
}

function errorOf(work: () => unknown): { code: string; text: string; rank: number } | undefined {
  try {
    work();
  } catch (error) {
    const { code, message, rank, details } = error as {
      code: string;
      message: string;
      rank?: number;
      details?: { rank?: number };
    };
    return { code, text: message, rank: rank ?? details?.rank ?? -1 };
  }
  return undefined;
}

const otherCases: GpuCase[] = [
  {
    name: 'planning: ids of every type',
    async run() {
      for (const dtype of ID_DTYPES) {
        const experts = dtype === 'i8' ? 128 : 256;
        const masked = dtype.startsWith('u') ? 0 : 0.2;
        const routing = makeRouting({
          ...{ family: 'raggedSources', seed: 5, ranks: 4, tokens: 70, topk: 6, experts, masked },
        });
        await compare(dtype, { experts, ranks: 4 }, toTables(routing, 6, dtype));
      }
    },
  },
  {
    name: 'planning: thousands of instances, whose counters do not fit shared memory',
    async run() {
      const routing = makeRouting({
        ...{ family: 'balanced', seed: 5, ranks: 4, tokens: 40, topk: 4, experts: 6000 },
      });
      for (const strategy of ['flat', 'hier'] as const) {
        const options: PlanOptions = { experts: 6000, ranks: 4, ranksPerNode: 2, strategy, capacity: 2 };
        await compare(strategy, options, toTables(routing, 4));
      }
    },
  },
  {
    name: 'planning: bad ids in every position have the error of the planner and are masked',
    async run() {
      const wasm = await loadPlanner();
      for (let entry = 0; entry < 6; entry++) {
        for (const bad of [8, -2, 2 ** 31 - 1, 'twice'] as const) {
          const ids = Int32Array.of(5, 0, 3, 7, 1, 2);
          // The next entry of the token, or the one before.
          const other = entry % 3 === 2 ? entry - 1 : entry + 1;
          ids[entry] = bad === 'twice' ? ids[other]! : bad;
          const tables = smallTables(ids);
          using subject = new Subject(SMALL, 3, 4);
          const into = subject.planBuffers();
          const plan = subject.plan(tables, into);
          const expected = errorOf(() => planAllNatively(tables, SMALL));
          assert.ok(expected !== undefined);
          assert.deepEqual(
            errorOf(() => plan.recvRows(1)),
            expected,
          );
          assert.deepEqual(
            errorOf(() => plan.shard(1)),
            expected,
          );
          // The good rank's shard is that of a plan in which the bad entry is masked.
          const masked = Int32Array.from(ids);
          masked[bad === 'twice' ? Math.max(entry, other) : entry] = -1;
          assert.deepEqual(
            Buffer.from(plan.shard(0)),
            Buffer.from(wasm.planAll(smallTables(masked), SMALL).shards[0]!.bytes),
          );
          plan.close();
        }
      }
    },
  },
  {
    name: 'planning: rows beyond the bound are counted and clipped; the plan stays',
    async run() {
      const wasm = await loadPlanner();
      const routing = makeRouting({
        ...{ family: 'balanced', seed: 1, ranks: 2, tokens: 9, topk: 2, experts: 6 },
      });
      const options: PlanOptions = { experts: 6, ranks: 2 };
      const tables = toTables(routing, 2);
      const { shards } = wasm.planAll(tables, options);
      const [{ recvRows, expertOffset, expertRows }] = shards as [(typeof shards)[0]];
      using subject = new Subject(options, 2, 9, recvRows - 1);
      const plan = subject.plan(tables, subject.planBuffers());
      assertShards('bounded', plan, shards);
      const view = plan.describe(0);
      assert.equal(view.localInstances, 3);
      assert.deepEqual([...subject.words(0, view.recvRows, 1)], [recvRows]);
      assert.deepEqual([...subject.words(0, view.overflowRows, 1)], [1]);
      const rows = [...expertRows];
      rows[2]!--;
      assert.deepEqual([...subject.words(0, view.expertCounts, 3)], rows);
      const offsets = [...expertOffset.subarray(0, 3), recvRows - 1];
      assert.deepEqual([...subject.words(0, view.expertOffsets, 4)], offsets);
      plan.close();
    },
  },
  {
    name: 'planning: all entries masked, and no tokens',
    async run() {
      for (const tokens of [0, 33]) {
        const ids = new Int32Array(tokens * 4).fill(-1);
        const tables = [0, 1, 2].map(() => ({ ids, tokens, topk: 4 }));
        for (const strategy of ['flat', 'hier'] as const) {
          await compare(`${tokens}`, { experts: 8, ranks: 3, ranksPerNode: 1, strategy }, tables);
        }
      }
    },
  },
  {
    name: 'planning: several plans are alive, and plan buffers can be attached again',
    async run() {
      const wasm = await loadPlanner();
      const options: PlanOptions = { experts: 16, ranks: 4, ranksPerNode: 2, strategy: 'hier' };
      const steps = [1, 2, 3].map((seed) =>
        toTables(makeRouting({ family: 'hotRank', seed, ranks: 4, tokens: 40, topk: 3, experts: 16 }), 3),
      );
      using subject = new Subject(options, 3, 40);
      const buffers = steps.map(() => subject.planBuffers());
      steps.forEach((tables, i) => {
        subject.plan(tables, buffers[i]!).close();
      });
      const { BufferedPlan } = needAddon('cuda');
      steps.forEach((tables, i) => {
        const plan = new BufferedPlan(subject.planner, buffers[i]!, undefined);
        assertShards(`step ${i}`, plan, wasm.planAll(tables, options).shards);
        plan.close();
      });
    },
  },
  {
    name: 'planning: a captured graph plans whatever ids are there',
    async run() {
      const wasm = await loadPlanner();
      for (const strategy of ['flat', 'hier'] as const) {
        const options: PlanOptions = { experts: 32, ranks: 4, ranksPerNode: 2, strategy, capacity: 30 };
        const stepTables = (seed: number) =>
          toTables(
            makeRouting({ family: 'hotExperts', seed, ranks: 4, tokens: 100, topk: 4, experts: 32 }),
            4,
          );
        using subject = new Subject(options, 4, 100);
        const into = subject.planBuffers();
        const ids = subject.up(stepTables(0));
        subject.plan(stepTables(0), into, ids).close();
        subject.cuda.synchronize();
        const graph = subject.cuda.capture(() => subject.plan(stepTables(0), into, ids).close());
        const { BufferedPlan } = needAddon('cuda');
        const plan = new BufferedPlan(subject.planner, into, undefined);
        for (let seed = 1; seed <= 50; seed++) {
          const tables = stepTables(seed);
          for (const [rank, table] of tables.entries()) {
            subject.cuda.copy(rank, ids[rank]!, table.ids, table.ids.byteLength);
          }
          graph.launch();
          subject.cuda.synchronize();
          assertShards(`${strategy}, replay ${seed}`, plan, wasm.planAll(tables, options).shards);
        }
        plan.close();
        graph.close();
      }
    },
  },
  {
    name: 'planning: what is refused',
    run() {
      const { DevicePlanner, BufferedPlan } = needAddon('cuda');
      using subject = new Subject(SMALL, 3, 2);
      const tables = smallTables(Int32Array.of(5, 0, 3, 7, 1, 2));
      const into = subject.planBuffers();
      const refused = (code: string, work: () => unknown) => assert.equal(errorOf(work)?.code, code);
      const plan = (buffers: readonly DeviceBuffer[]) =>
        new BufferedPlan(subject.planner, buffers, undefined);
      refused('E_BUFFER', () => plan(into.map((buffer) => ({ ...buffer, bytes: buffer.bytes - 1 }))));
      const [first, second] = into as [DeviceBuffer, DeviceBuffer];
      refused('E_BUFFER', () => plan([{ ...first, address: first.address + 8n }, second]));
      const three = { ...tables[1]!, tokens: 3, ids: new Int32Array(9).fill(-1) };
      refused('E_LIMIT', () => subject.plan([tables[0]!, three], into));
      const spec = nativeOptions(resolveOptions(SMALL, 3));
      const open = (options: object, limits: object) =>
        new DevicePlanner(nativeCuda(subject.cuda), { ...spec, ...options }, { maxTokens: 8, ...limits });
      refused('E_OPTION', () => open({ strategy: 'auto' }, {}));
      refused('E_OPTION', () => open({ ranks: 4, ranksPerNode: 1 }, {}));
      refused('E_LIMIT', () => open({}, { maxTokens: 2 ** 31 }));
    },
  },
  {
    name: 'planning: nothing is written behind a plan buffer',
    run() {
      const guard = 256;
      const options: PlanOptions = { experts: 16, ranks: 2, ranksPerNode: 1, strategy: 'hier' };
      const routing = makeRouting({
        family: 'balanced',
        seed: 8,
        ranks: 2,
        tokens: 64,
        topk: 4,
        experts: 16,
      });
      const tables = toTables(routing, 4);
      using subject = new Subject(options, 4, 64);
      const { bufferBytes } = subject.planner;
      const whole = subject.buffers.poisoned([bufferBytes + guard, bufferBytes + guard]);
      subject.plan(tables, whole).close();
      for (const bytes of subject.buffers.down(whole)) {
        assert.ok(bytes.subarray(bufferBytes).every((byte) => byte === POISON));
      }
    },
  },
];

const casesByPass = otherCases.map(
  ({ name, run }): GpuCase => ({
    name: `${name}; a kernel for each pass`,
    run: () => withoutSmallPlans(run),
  }),
);

export const planningCases: readonly GpuCase[] = [
  ...otherCases,
  ...casesByPass,
  ...clusterCases,
  ...boundCases,
  ...targetCases,
  ...sizeCases,
  ...randomCases,
];
