// Compares the model with measurements, which docs/performance-gpus.md describes.

import type { Planner } from '../../planner/planner.ts';
import type { PlanOptions } from '../../planner/spec.ts';
import { uniformTables } from '../bench/ids.ts';
import { fitParameters, type Parameter } from './fit.ts';
import { planLoads } from './loads.ts';
import { type Exchange, scaleExchange, timeExchange } from './model.ts';
import { type Exchanges, flatFused, hierFused, oncePerRank, unfused } from './strategies.ts';
import { type Constants, namedTopology } from './topology.ts';

/** Hidden 7168 bf16, top-8 of 256 experts, uniform routing. */
const OPTIONS = { hidden: 7168, dtype: 'bf16', experts: 256 } as const;
const TOPK = 8;
/** Tokens per rank of the table that is planned; for other lengths, these loads are scaled. */
const PLANNED_TOKENS = 4096;

/** What was measured: a strategy between the GPUs of one process, or between processes through NCCL. */
export type Way =
  | 'straight to slots'
  | 'once per rank'
  | 'unfused over NCCL'
  | 'flat over NCCL'
  | 'once over NCCL';

/** Through NCCL, rows wait for whole messages, and stages follow one another. */
const NCCL_WAYS: readonly Way[] = ['flat over NCCL', 'once over NCCL'];

interface Series {
  readonly gpus: number;
  readonly way: Way;
  readonly tokens: readonly number[];
  readonly dispatchMs: readonly number[];
  readonly combineMs: readonly number[];
}

const series = (
  gpus: number,
  way: Way,
  tokens: readonly number[],
  dispatchMs: readonly number[],
  combineMs: readonly number[],
): Series => ({ gpus, way, tokens, dispatchMs, combineMs });

const LENGTHS = [4096, 8192, 16_384, 32_768];
const ENDS = [4096, 32_768];

/** Medians on H100 80GB HBM3 with NVLink; between four GPUs of one process on H200, which has the same links. */
const MEASURED: readonly Series[] = [
  series(2, 'straight to slots', LENGTHS, [0.704, 1.356, 2.635, 5.172], [0.714, 1.408, 2.803, 5.567]),
  series(2, 'once per rank', LENGTHS, [0.238, 0.433, 0.822, 1.603], [0.271, 0.474, 0.906, 1.75]),
  series(4, 'straight to slots', LENGTHS, [1.52, 2.884, 5.29, 9.59], [1.114, 2.174, 4.29, 8.509]),
  series(4, 'once per rank', LENGTHS, [0.481, 0.925, 1.82, 3.604], [0.486, 0.931, 1.826, 3.609]),
  series(2, 'unfused over NCCL', ENDS, [1.42, 8.98], [1.33, 8.32]),
  series(4, 'unfused over NCCL', ENDS, [1.83, 13.04], [1.68, 11.92]),
  series(2, 'flat over NCCL', ENDS, [1.52, 8.15], [1.45, 7.94]),
  series(4, 'flat over NCCL', ENDS, [1.75, 12.17], [1.7, 11.57]),
  series(2, 'once over NCCL', ENDS, [0.62, 3.45], [0.73, 3.63]),
  series(4, 'once over NCCL', ENDS, [1.02, 6.47], [1.47, 6.43]),
];

/** What differs through NCCL, as a calibration for `fusco simulate`. */
const NCCL_CONSTANTS: Partial<Constants> = {
  nvlinkGBps: 250,
  scatterReached: 0.95,
  overlap: 0.5,
  setupUs: 330,
};

/** One measured time next to the predicted one. */
export interface MeasuredCell {
  readonly gpus: number;
  readonly way: Way;
  readonly exchange: 'dispatch' | 'combine';
  readonly tokens: number;
  readonly measuredMs: number;
  readonly predictedMs: number;
  /** predicted / measured - 1 */
  readonly error: number;
}

export interface MeasuredResult {
  readonly cells: readonly MeasuredCell[];
  /** Of the absolute errors. */
  readonly median: number;
  readonly largest: number;
  /** The constants of least error, found by a deterministic search; the defaults are close to them. */
  readonly fitted: Readonly<Record<'cuda' | 'nccl', Partial<Constants>>>;
}

interface Point extends Omit<MeasuredCell, 'predictedMs' | 'error'> {
  readonly work: Exchange;
}

function exchangesOf(planner: Planner, gpus: number): Readonly<Record<Way, Exchanges>> {
  const tables = uniformTables(gpus, PLANNED_TOKENS, TOPK, OPTIONS.experts);
  const options: PlanOptions = { ...OPTIONS, ranks: gpus };
  const flat = planner.planAll(tables, { ...options, strategy: 'flat' });
  const once = planner.planAll(tables, { ...options, strategy: 'hier', ranksPerNode: 1, balance: 'static' });
  const [flatLoads, onceLoads] = [planLoads(flat, gpus), planLoads(once, gpus)];
  return {
    'straight to slots': flatFused(flatLoads, flat.spec),
    'once per rank': oncePerRank(onceLoads, once.spec),
    'unfused over NCCL': unfused(flatLoads, flat.spec),
    'flat over NCCL': flatFused(flatLoads, flat.spec),
    'once over NCCL': hierFused(onceLoads, once.spec),
  };
}

function pointsOf(planner: Planner): Point[] {
  const sizes = [...new Set(MEASURED.map(({ gpus }) => gpus))];
  const made = new Map(sizes.map((gpus) => [gpus, exchangesOf(planner, gpus)]));
  return MEASURED.flatMap(({ gpus, way, tokens, dispatchMs, combineMs }) =>
    tokens.flatMap((count, i) =>
      (
        [
          ['dispatch', dispatchMs],
          ['combine', combineMs],
        ] as const
      ).map(([exchange, ms]) => ({
        ...{ gpus, way, exchange, tokens: count, measuredMs: ms[i]! },
        work: scaleExchange(made.get(gpus)![way][exchange], count / PLANNED_TOKENS),
      })),
    ),
  );
}

const H100 = namedTopology('h100-nvl4')!.constants;

type Tuned = Pick<Parameter, 'min' | 'max'> & { readonly name: keyof Constants };

const CUDA_TUNED: readonly Tuned[] = [
  { name: 'nvlinkGBps', min: 300, max: 450 },
  { name: 'scatterReached', min: 0.5, max: 1 },
  { name: 'setupUs', min: 1, max: 200 },
];
const NCCL_TUNED: readonly Tuned[] = [
  { name: 'nvlinkGBps', min: 100, max: 450 },
  { name: 'setupUs', min: 1, max: 1000 },
  { name: 'overlap', min: 0.01, max: 1 },
  { name: 'scatterReached', min: 0.5, max: 1 },
];

/** The constants of least sum of squared logarithms of predicted over measured. */
function fitConstants(
  points: readonly Point[],
  base: Constants,
  tuned: readonly Tuned[],
): Partial<Constants> {
  const withValues = (values: readonly number[]) =>
    Object.fromEntries(tuned.map(({ name }, i) => [name, values[i]!])) as Partial<Constants>;
  const values = fitParameters(
    tuned.map((each) => ({ ...each, starts: [base[each.name]], scale: 'factor' })),
    (tried) => {
      const constants = { ...base, ...withValues(tried) };
      return points.reduce((sum, { work, measuredMs }) => {
        const miss = Math.log(timeExchange(work, constants).us / 1e3 / measuredMs);
        return sum + miss * miss;
      }, 0);
    },
  );
  return withValues(values);
}

function medianOf(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length / 2;
  return (sorted[Math.ceil(middle) - 1]! + sorted[Math.floor(middle)]!) / 2;
}

/** Predicts every measured exchange with the constants that `fusco simulate` uses. */
export function compareMeasured(planner: Planner): MeasuredResult {
  const points = pointsOf(planner);
  const isNccl = ({ way }: Point) => NCCL_WAYS.includes(way);
  const nccl: Constants = { ...H100, ...NCCL_CONSTANTS };
  const cells = points.map(({ work, ...point }): MeasuredCell => {
    const constants = NCCL_WAYS.includes(point.way) ? nccl : H100;
    const predictedMs = timeExchange(work, constants).us / 1e3;
    return { ...point, predictedMs, error: predictedMs / point.measuredMs - 1 };
  });
  const errors = cells.map(({ error }) => Math.abs(error));
  return {
    cells,
    median: medianOf(errors),
    largest: Math.max(...errors),
    fitted: {
      cuda: fitConstants(
        points.filter((point) => !isNccl(point)),
        H100,
        CUDA_TUNED,
      ),
      nccl: fitConstants(points.filter(isNccl), nccl, NCCL_TUNED),
    },
  };
}
