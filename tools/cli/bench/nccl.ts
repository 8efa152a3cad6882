import { type Command, Option } from 'commander';
import { benchNccl, type NcclBench, type NcclBenchOptions } from '../../bench/nccl.ts';
import { print } from '../io.ts';
import { benchOf, count, experts, hidden, printGrid, rounds, topk } from './shared.ts';

function show({ nccl, device, devices, ranks, options, cases, unfused }: NcclBench): void {
  const { tokens, hidden, topk, experts, oneGpu } = options;
  const where = oneGpu ? `all on one ${device}, over NCCL's sockets` : `on ${devices} x ${device}`;
  print(`${ranks} processes x ${tokens} tokens ${where}; hidden ${hidden} bf16, top-${topk} of ${experts}`);
  print(`NCCL ${nccl}; medians of the slowest rank\n`);
  printGrid(
    [
      ...['', 'dispatch ms', 'combine ms', 'wire MiB', 'direct MiB', 'bus GB/s'],
      ...['packing hidden', 'buffers MiB'],
    ],
    [
      ...cases.map(
        ({ name, dispatchMs, combineMs, wireMiB, directMiB, busGBs, packingHidden, bufferMiB }) => [
          ...[name, dispatchMs, combineMs],
          ...[wireMiB, directMiB, busGBs.dispatch].map((value) => value.toFixed(1)),
          packingHidden && `${(100 * packingHidden.dispatch).toFixed(0)} %`,
          (bufferMiB.tables + bufferMiB.dispatch + bufferMiB.combine).toFixed(1),
        ],
      ),
      ['unfused, all through NCCL', unfused.dispatchMs, unfused.combineMs],
    ],
    2,
  );
}

export function ncclBenchCommand(): Command {
  return benchOf(
    'nccl',
    'Exchanges between processes against the unfused pipeline: fusco launch -n 4 -- fusco bench nccl',
    [
      count('--tokens <n>', 'tokens a rank', 1, 1 << 20, 4096),
      ...[hidden(), topk(), experts(), rounds(15)],
      count('--ranks-per-host <n>', 'ranks of a pretended machine, for plans of nodes', 1, 60, 2),
      new Option('--one-gpu', 'several ranks share a GPU'),
    ],
    (options: NcclBenchOptions) => benchNccl({ ...options, oneGpu: options.oneGpu === true }),
    show,
  );
}
