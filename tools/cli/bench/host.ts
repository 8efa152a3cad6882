import type { Command } from 'commander';
import { MAX_RANKS, MAX_ROW_BYTES } from '../../../planner/format/layout.ts';
import { benchHost, type HostBench } from '../../bench/host.ts';
import { print } from '../io.ts';
import { benchOf, count, experts, printGrid, rounds, topk } from './shared.ts';

function show({ options, kernels, ceiling, writeRate, dispatch, combine }: HostBench): void {
  const { ranks, tokens, hidden, topk, experts, threads } = options;
  print(
    `${ranks} ranks x ${tokens} tokens, hidden ${hidden} bf16, top-${topk} of ${experts}, ${threads} threads`,
  );
  print(`kernels: ${kernels}`);
  print(`best copy: ${ceiling.variant}, ${ceiling.rate.toFixed(1)} GB/s read + write`);
  print(`non-temporal stores alone: ${writeRate.toFixed(1)} GB/s, which bounds dispatch\n`);
  const row = (name: string, { fused, unfused, rate }: HostBench['dispatch']) => [
    ...[name, fused, unfused, unfused / fused, rate.toFixed(1)],
    `${((100 * rate) / ceiling.rate).toFixed(0)} %`,
  ];
  printGrid(
    ['', 'fused ms', 'unfused ms', 'times', 'GB/s', 'of the copy'],
    [row('dispatch', dispatch), row('combine', combine)],
    2,
  );
}

export function hostBenchCommand(): Command {
  return benchOf(
    'host',
    'Dispatch and combine on this machine against the unfused pipeline and a plain copy.',
    [
      count('--ranks <n>', 'ranks', 1, MAX_RANKS, 8),
      count('--tokens <n>', 'tokens per rank', 1, 1 << 20, 512),
      count('--hidden <n>', 'bf16 elements of a row', 1, MAX_ROW_BYTES / 2, 7168),
      topk(),
      experts(),
      count('--threads <n>', 'threads', 1, 1024, 2),
      rounds(15),
    ],
    benchHost,
    show,
  );
}
