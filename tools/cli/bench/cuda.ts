import type { Command } from 'commander';
import { benchCuda, type CudaBench, type CudaStage, type CudaWorkload } from '../../bench/cuda.ts';
import { formatCount, percent } from '../../figures/format.ts';
import { print } from '../io.ts';
import {
  benchOf,
  count,
  experts,
  hidden,
  printGrid,
  printPlanning,
  recordings,
  rounds,
  topk,
} from './shared.ts';

const ms = (value: number) => value.toFixed(3);

function showWorkload(w: CudaWorkload): void {
  print(`\n${w.name}: ${formatCount(w.tokens)} tokens; copy ${w.copy.rate.toFixed(0)} GB/s read + write`);
  const row = (name: string, stage: CudaStage, unfused?: number) => [
    ...[name, stage.ms, unfused, stage.rate.toFixed(0), percent(stage.share)],
  ];
  printGrid(
    ['', 'fused', 'unfused', 'GB/s', 'of the copy'],
    [
      row('dispatch', w.dispatch, w.unfused?.dispatchMs),
      row('dispatch, planned order', w.dispatchPlanned),
      row('combine', w.combine, w.unfused?.combineMs),
      row('combine, unweighted', w.combineUnweighted),
    ],
    3,
  );
  print(
    `replayed dispatch + combine ${ms(w.replayMs)}, scaled ${ms(w.scaledMs)}, ` +
      `weight gradient ${ms(w.weightGradientMs)}; dispatch from an idle GPU ` +
      `${ms(w.idleDispatchMs.ownStreams)}, with one stream for all ranks ${ms(w.idleDispatchMs.oneStream)}`,
  );
  const e = w.endToEnd;
  print(
    `end to end ${ms(e.totalMs)}: ids to the host ${ms(e.idsToHostMs)}, plan ${ms(e.planMs)}, ` +
      `check and upload ${ms(e.uploadCallMs)}, dispatch call ${ms(e.dispatchCallMs)}, then ${ms(e.deviceMs)}; ` +
      `forward and backward on one plan ${ms(e.reusedStepMs)}`,
  );
}

function show({ device, options, workloads, planning, rowWork }: CudaBench): void {
  const { ranks, hidden, topk, experts } = options;
  print(
    `${device.name}; ${ranks} ranks on it, hidden ${hidden} bf16, top-${topk} of ${experts}; medians in ms`,
  );
  for (const workload of workloads) showWorkload(workload);
  printPlanning(planning);
  print('\nfp8 and gating; the copy moves as many bytes, the host backend has all processors');
  printGrid(
    ['', 'tokens', 'ms', 'copy', 'host', 'GB/s', 'of the copy'],
    rowWork.map((stage) => [
      ...[stage.name, formatCount(stage.tokens), stage.ms, stage.copyMs, stage.hostMs],
      ...[stage.rate.toFixed(0), percent(stage.share)],
    ]),
    3,
  );
}

export function cudaBenchCommand(): Command {
  return benchOf(
    'cuda',
    'Dispatch, combine, fp8 and gating on one GPU against the unfused pipeline and a device copy.',
    [
      count('--ranks <n>', 'ranks, all on one GPU', 1, 64, 8),
      ...[hidden(), topk(), experts(), rounds(15), recordings()],
    ],
    benchCuda,
    show,
  );
}
