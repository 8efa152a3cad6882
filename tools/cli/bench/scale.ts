import type { Command } from 'commander';
import { MAX_INSTANCES, MAX_RANKS } from '../../../planner/format/layout.ts';
import { benchScale, type ScaleBench } from '../../bench/scale.ts';
import { formatCount } from '../../figures/format.ts';
import { withProgress } from '../../terminal/progress.ts';
import { print } from '../io.ts';
import { benchOf, count, list, printGrid, topk } from './shared.ts';

function show({ rows, growth }: ScaleBench): void {
  print('MiB, and ms; every case in a process of its own, one shard in memory at a time\n');
  printGrid(
    [
      ...['strategy', 'ranks', 'experts', 'tokens', 'plan', 'write', 'verify', 'routeRank', 'planRank'],
      ...['file MiB', 'planner MiB', 'start MiB', 'peak plan', 'peak verify'],
    ],
    rows.map((row) => [
      ...[row.strategy, formatCount(row.ranks), formatCount(row.experts), formatCount(row.tokens)],
      ...[row.planMs, row.writeMs, row.verifyMs],
      ...[row.routeRankMs.toFixed(1), row.planRankMs.toFixed(1), row.fileMiB, row.plannerMiB.toFixed(1)],
      ...[row.startMiB, row.peakPlanMiB, row.peakMiB],
    ]),
    0,
  );
  print('');
  printGrid(
    ['what', 'grows like'],
    growth.map(({ what, of, strategy, exponent }) => [
      ...[`${what}, ${strategy}`, `${of}^${exponent.toFixed(2)}`],
    ]),
    0,
  );
}

interface ScaleOptions {
  readonly ranks: number[];
  readonly tokens: number;
  readonly topk: number;
  readonly experts?: number;
}

export function scaleBenchCommand(): Command {
  const about = 'logical experts (default: 256, or as many as ranks)';
  return benchOf(
    'scale',
    'Time and memory of planning and verifying shard by shard, against ranks and tokens.',
    [
      list('--ranks <list>', 'numbers of ranks, separated by commas', MAX_RANKS, [64, 256, 1024, 2048]),
      count('--tokens <n>', 'tokens per rank', 8, 1 << 20, 4096),
      topk(),
      count('--experts <n>', about, 1, MAX_INSTANCES),
    ],
    ({ ranks, tokens, topk, experts }: ScaleOptions) =>
      withProgress('measuring', (onCase) => benchScale(ranks, tokens, topk, experts, onCase)),
    show,
  );
}
