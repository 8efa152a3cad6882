import { type Command, Option } from 'commander';
import { benchPlan, type PlanBench } from '../../bench/plan.ts';
import { formatBytes, formatCount } from '../../figures/format.ts';
import { print } from '../io.ts';
import { benchOf, count, experts, printGrid } from './shared.ts';

function show({ hotPath, stages }: PlanBench): void {
  print('counting sort of 262,144 ids, 256 experts: ns an entry, medians');
  printGrid(
    ['ids', 'Wasm', 'C++ unrolled', 'C++ simple', 'JavaScript'],
    hotPath.map((row) => [row.ids, row.wasm, row.cpp, row.cppSimple, row.javascript]),
    2,
  );
  for (const stage of stages) {
    const size = `${stage.ranks} ranks, ${formatCount(stage.entries)} entries`;
    const memory = `planner memory ${formatBytes(stage.plannerMemoryBytes)}`;
    print(`\n${stage.strategy} plan of ${size}: ns an entry, medians (${memory})`);
    const { read, plan, encode, hash, write, cppFloor, routeRank, planRank, fileBytesPerEntry } = stage;
    printGrid(
      [
        ...['read', 'plan', 'encode', 'hash', 'write', 'C++ counting only'],
        ...['routeRank', 'planRank', 'file B/entry'],
      ],
      [[read, plan, encode, hash, write, cppFloor, routeRank, planRank, fileBytesPerEntry]],
      2,
    );
  }
}

export function planBenchCommand(): Command {
  return benchOf(
    'plan',
    'Planning against C++ and JavaScript, and a plan stage by stage.',
    [
      new Option(
        '--routing <routing>',
        'a routing, as for `fusco plan` (default: 64 ranks of 4096 tokens, uniform)',
      ),
      experts(),
      count(
        '--rounds <n>',
        'repetitions of the stages; the hot path is repeated ten times as often',
        1,
        1000,
        9,
      ),
    ],
    ({ routing, experts, rounds }: { routing?: string; experts: number; rounds: number }) =>
      benchPlan(routing, experts, rounds),
    show,
  );
}
