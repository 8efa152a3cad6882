import type { Command } from 'commander';
import { MAX_INSTANCES, MAX_RANKS, MAX_ROW_BYTES, MAX_TOPK } from '../../planner/layout.ts';
import { benchHost, type HostBench } from '../bench/host.ts';
import { type Verdict, verdictLines } from '../bench/measure.ts';
import { benchPlan, type PlanBench } from '../bench/plan.ts';
import { formatBytes, formatCount, formatGrid } from '../format.ts';
import { command, integer, print, printJson } from './io.ts';

function printVerdicts(verdicts: readonly Verdict[]): void {
  print(`\n${formatGrid([['goal', 'measured', 'asked', 'reached'], ...verdictLines(verdicts)])}`);
}

function ns(value: number | undefined): string {
  return value === undefined ? '-' : value.toFixed(2);
}

function printPlanBench({ hotPath, stages, verdicts }: PlanBench): void {
  print('counting sort of 262,144 ids, 256 experts: ns an entry, medians');
  const rows = hotPath.map((row) => [row.ids, row.wasm, row.cpp, row.cppSimple, row.javascript] as const);
  print(
    formatGrid([
      ['ids', 'Wasm', 'C++ unrolled', 'C++ simple', 'JavaScript'],
      ...rows.map(([name, ...values]) => [name, ...values.map(ns)]),
    ]),
  );
  for (const stage of stages) {
    const size = `${stage.ranks} ranks, ${formatCount(stage.entries)} entries`;
    const memory = `planner memory ${formatBytes(stage.plannerMemoryBytes)}`;
    print(`\n${stage.strategy} plan of ${size}: ns an entry, medians (${memory})`);
    const { read, plan, encode, hash, write, cppFloor, routeRank, planRank } = stage;
    print(
      formatGrid([
        [
          'read',
          'plan',
          'encode',
          'hash',
          'write',
          'C++ counting only',
          'routeRank',
          'planRank',
          'file B/entry',
        ],
        [read, plan, encode, hash, write, cppFloor, routeRank, planRank, stage.fileBytesPerEntry].map(ns),
      ]),
    );
  }
  printVerdicts(verdicts);
}

function printHostBench({
  options,
  kernels,
  ceiling,
  writeRate,
  dispatch,
  combine,
  verdicts,
}: HostBench): void {
  const { ranks, tokens, hidden, topk, experts, threads } = options;
  print(
    `${ranks} ranks x ${tokens} tokens, hidden ${hidden} bf16, top-${topk} of ${experts}, ${threads} threads`,
  );
  print(`best copy: ${ceiling.variant}, ${ceiling.rate.toFixed(1)} GB/s read + write; kernels: ${kernels}`);
  print(`streaming stores alone: ${writeRate.toFixed(1)} GB/s, which bounds dispatch\n`);
  const row = (name: string, stage: HostBench['dispatch']) => [
    name,
    stage.fused.toFixed(2),
    stage.unfused.toFixed(2),
    (stage.unfused / stage.fused).toFixed(2),
    stage.rate.toFixed(1),
    `${((100 * stage.rate) / ceiling.rate).toFixed(0)} %`,
  ];
  print(
    formatGrid([
      ['', 'fused ms', 'unfused ms', 'times', 'GB/s', 'of the copy'],
      row('dispatch', dispatch),
      row('combine', combine),
    ]),
  );
  printVerdicts(verdicts);
}

function planBenchCommand(): Command {
  return command('plan', 'Planning against C++ and JavaScript, and a plan stage by stage.')
    .option('--routing <routing>', 'as `fusco plan` takes it (default: 64 uniform ranks of 4096 tokens)')
    .option('--experts <n>', 'logical experts', integer(1, MAX_INSTANCES), 256)
    .option('--rounds <n>', 'rounds of the stages; the hot path runs ten times as many', integer(1, 1000), 9)
    .option('--json', 'one JSON object')
    .action(async (options: { routing?: string; experts: number; rounds: number; json?: boolean }) => {
      const result = await benchPlan(options.routing, options.experts, options.rounds);
      if (options.json) printJson(result);
      else printPlanBench(result);
    });
}

function hostBenchCommand(): Command {
  return command(
    'host',
    'Dispatch and combine on this machine against the unfused pipeline and a plain copy.',
  )
    .option('--ranks <n>', 'ranks', integer(1, MAX_RANKS), 8)
    .option('--tokens <n>', 'tokens a rank', integer(1, 1 << 20), 512)
    .option('--hidden <n>', 'bf16 elements of a row', integer(1, MAX_ROW_BYTES / 2), 7168)
    .option('--topk <n>', 'experts a token', integer(1, MAX_TOPK), 8)
    .option('--experts <n>', 'logical experts', integer(1, MAX_INSTANCES), 256)
    .option('--threads <n>', 'threads', integer(1, 1024), 2)
    .option('--rounds <n>', 'rounds', integer(1, 1000), 15)
    .option('--json', 'one JSON object')
    .action(async ({ json, ...options }) => {
      const result = await benchHost(options);
      if (json) printJson(result);
      else printHostBench(result);
    });
}

export function benchCommand(): Command {
  return command('bench', 'Medians, with the baseline and the ceiling measured in the same run.')
    .addCommand(planBenchCommand())
    .addCommand(hostBenchCommand());
}
