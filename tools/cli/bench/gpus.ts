import type { Command } from 'commander';
import { benchGpus, type GpusBench, type GpusStage } from '../../bench/gpus.ts';
import { print } from '../io.ts';
import {
  benchOf,
  type CaseShown,
  experts,
  hidden,
  list,
  printCases,
  printGrid,
  printPlanning,
  recordings,
  rounds,
  smLimit,
  topk,
  workload,
} from './shared.ts';

const CASE_NAMES = {
  toSlots: 'straight to every slot',
  oncePerRank: 'once per rank',
  oncePerRankFp8: 'once per rank, fp8 rows and scales',
} as const;

function show({ device, gpus, options, workloads, planning, enough }: GpusBench): void {
  const { hidden, topk, experts } = options;
  print(`${gpus} x ${device}, a rank on each; hidden ${hidden} bf16, top-${topk} of ${experts}; medians`);
  for (const w of workloads) {
    print(
      `\n${w.name}: peer copy ${w.peerCopyGBs.toFixed(0)} GB/s out, ${w.peerReadGBs.toFixed(0)} in, ` +
        `local copy ${w.localCopyGBs.toFixed(0)} GB/s read + write`,
    );
    printCases(w.cases.map((one): CaseShown => ({ ...one, name: CASE_NAMES[one.name] })));
    const row = (name: string, { ms, busGBs, share }: GpusStage) => [
      ...[name, ms, busGBs.toFixed(0), `${(100 * share).toFixed(0)} %`],
    ];
    printGrid(
      ['gradients', 'ms', 'bus GB/s', 'of the peer copy'],
      [row('combine gradient', w.combineGradient), row('in two calls', w.gradientApart)],
      3,
    );
    if (w.sweep.length === 0) continue;
    printGrid(
      [
        'SMs',
        'dispatch ms',
        'combine ms',
        'dispatch, once per rank',
        'combine, once per rank',
        'combine gradient',
      ],
      w.sweep.map((one) => [
        String(one.multiprocessors),
        ...[one.dispatchMs, one.combineMs, one.oncePerRankMs, one.sumPerRankMs, one.gradientMs],
      ]),
      3,
    );
  }
  printPlanning(planning);
  print(
    `\n95 % of the best take ${enough.dispatch} SMs (dispatch), ${enough.combine} (combine), ` +
      `${enough.oncePerRank} and ${enough.sumPerRank} once per rank, ${enough.gradient} (combine gradient)`,
  );
}

export function gpusBenchCommand(): Command {
  const sms = [4, 8, 12, 16, 20, 24, 32, 48, 64, 96, 132];
  return benchOf(
    'gpus',
    'Exchanges between the GPUs of one process, against the rate of a copy between them.',
    [
      list('--tokens <list>', 'tokens per GPU, separated by commas', 1 << 20, [4096, 8192, 16384, 32768]),
      ...[hidden(), topk(), experts(), rounds(11), workload(), smLimit()],
      list('--multiprocessors <list>', 'numbers of SMs to try', 1 << 20, sms),
      recordings(),
    ],
    benchGpus,
    show,
  );
}
