import type { Command } from 'commander';
import { benchGpus, type GpusBench, type GpusStage } from '../../bench/gpus.ts';
import { print } from '../io.ts';
import { benchOf, experts, hidden, list, printGrid, recordings, rounds, topk } from './shared.ts';

function show({ device, gpus, options, workloads, enough }: GpusBench): void {
  const { hidden, topk, experts } = options;
  print(`${gpus} x ${device}, a rank on each; hidden ${hidden} bf16, top-${topk} of ${experts}; medians`);
  for (const w of workloads) {
    print(
      `\n${w.name}: peer copy ${w.peerCopyGBs.toFixed(0)} GB/s out, ${w.peerReadGBs.toFixed(0)} in, ` +
        `local copy ${w.localCopyGBs.toFixed(0)} GB/s read + write`,
    );
    const row = (name: string, { ms, busGBs, share }: GpusStage) => [
      ...[name, ms, busGBs.toFixed(0), `${(100 * share).toFixed(0)} %`],
    ];
    printGrid(
      ['', 'ms', 'bus GB/s', 'of the peer copy'],
      [
        row('dispatch', w.dispatch),
        row('dispatch, once per rank', w.oncePerRank),
        row('combine', w.combine),
        row('combine, once per rank', w.sumPerRank),
        row('combine gradient', w.combineGradient),
        row('combine gradient, two calls', w.gradientApart),
      ],
      3,
    );
    if (w.sweep.length === 0) continue;
    printGrid(
      ['SMs', 'dispatch ms', 'combine ms', 'combine gradient ms'],
      w.sweep.map((one) => [String(one.multiprocessors), one.dispatchMs, one.combineMs, one.gradientMs]),
      3,
    );
  }
  print(
    `\n95 % of the best take ${enough.dispatch} SMs (dispatch), ${enough.combine} (combine), ` +
      `${enough.gradient} (combine gradient)`,
  );
}

export function gpusBenchCommand(): Command {
  const sms = [4, 8, 12, 16, 20, 24, 32, 48, 64, 96, 132];
  return benchOf(
    'gpus',
    'Exchanges between the GPUs of one process, under the rate of a copy between them.',
    [
      list('--tokens <list>', 'tokens a GPU, separated by commas', 1 << 20, [4096, 8192, 16384, 32768]),
      ...[hidden(), topk(), experts(), rounds(11)],
      list('--multiprocessors <list>', 'numbers of SMs to try', 1 << 20, sms),
      recordings(),
    ],
    benchGpus,
    show,
  );
}
