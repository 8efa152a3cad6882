import { type Command, Option } from 'commander';
import { benchNccl, type NcclBench, type NcclBenchOptions } from '../../bench/nccl.ts';
import { formatCount } from '../../figures/format.ts';
import { print } from '../io.ts';
import { showHost } from './ncclHost.ts';
import {
  benchOf,
  type CaseShown,
  count,
  experts,
  hidden,
  printCases,
  printGrid,
  rounds,
  smLimit,
  topk,
  workload,
} from './shared.ts';

function show(bench: NcclBench): void {
  const { nccl, device, devices, ranks, options, cases, unfused, planning, host } = bench;
  const { peerCopyGBs, localCopyGBs } = bench;
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
  showPlanning(planning);
  showHost(host);
  if (oneGpu) return;
  const [peer, local] = [peerCopyGBs, localCopyGBs].map((rate) => rate?.toFixed(0) ?? 'no');
  print(`\npeer copy ${peer} GB/s out, local copy ${local} GB/s read + write`);
  printCases(
    cases.flatMap(({ name, bf16, fp8 }): CaseShown[] => [
      ...(bf16 === undefined ? [] : [{ name, ...bf16 }]),
      ...(fp8 === undefined ? [] : [{ name: `${name}, fp8 rows and scales`, ...fp8 }]),
    ]),
  );
  print('');
  printGrid(
    ['graph replay, chained', 'dispatch ms', 'combine ms'],
    cases.flatMap(({ name, replayed }) =>
      replayed === undefined ? [] : [[name, replayed.dispatchMs, replayed.combineMs]],
    ),
    4,
  );
}

function showPlanning({ sizes, planMs, givenMs, deviceMs, hostMs }: NcclBench['planning']): void {
  print('\nplanning of a rank from ids on the device, and from those ids to rows in place');
  printGrid(
    ['', 'ms'],
    [
      ['plan on the device', planMs],
      ['rows along a given plan', givenMs],
      ['plan on the device, then rows', deviceMs],
      ['ids to the host, plan there, then rows', hostMs],
    ],
    3,
  );
  print('\nplanning of a rank on the device, in replayed graphs; ms');
  printGrid(
    ['', 'tokens per rank', 'plan'],
    sizes.map(({ name, tokens, planMs }) => [name, formatCount(tokens), planMs]),
    4,
  );
}

export function ncclBenchCommand(): Command {
  return benchOf(
    'nccl',
    'Exchanges between processes against the unfused pipeline: fusco launch -n 4 -- fusco bench nccl',
    [
      count('--tokens <n>', 'tokens per rank', 1, 1 << 20, 4096),
      ...[hidden(), topk(), experts(), rounds(15), workload(), smLimit()],
      count('--ranks-per-host <n>', 'ranks per simulated machine, for plans with nodes', 1, 60, 2),
      new Option('--one-gpu', 'several ranks share a GPU'),
    ],
    (options: NcclBenchOptions) => benchNccl({ ...options, oneGpu: options.oneGpu === true }),
    show,
  );
}
