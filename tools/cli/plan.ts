import type { Command } from 'commander';
import { planAllNatively } from '../../executor/native/planner.ts';
import { planChunked } from '../../planner/chunked.ts';
import { FuscoError } from '../../planner/errors.ts';
import { encodePlanChunks } from '../../planner/format/encode.ts';
import { MAX_INSTANCES, MAX_RANKS, MAX_ROW_BYTES, MAX_ROWS } from '../../planner/format/layout.ts';
import { loadPlanner, nodeHashing, nodeSha256 } from '../../planner/node.ts';
import type { VerifiedPlan } from '../../planner/plan.ts';
import type { Planner, Progress } from '../../planner/planner.ts';
import type { RoutingTable } from '../../planner/routing.ts';
import {
  type Balance,
  type Dtype,
  type PartialDtype,
  type PlanOptions,
  REPLICA_RULES,
  type ReplicaRule,
  type Strategy,
  type SumOrder,
} from '../../planner/spec.ts';
import { formatBytes, formatCount } from '../figures/format.ts';
import { readAnyRouting } from '../readers/anyRouting.ts';
import { explaining } from '../readers/origins.ts';
import { readPlacement } from '../readers/placementMap.ts';
import { withProgress } from '../terminal/progress.ts';
import { writeFileAtomic } from '../writers/outputFile.ts';
import { command, Notices, printJson, say } from './io.ts';
import {
  addRoutingOptions,
  choice,
  integer,
  type NodeArguments,
  nodeOptions,
  type RoutingArguments,
  ranksPerNodeOf,
  routingChoice,
} from './options.ts';

const BALANCES = ['static', 'rotate', 'lpt', 'best'];

interface PlanArguments extends RoutingArguments, NodeArguments {
  output: string;
  experts: number;
  ranks?: number;
  ranksPerHost?: number;
  hidden: number;
  dtype: Dtype;
  align: number;
  capacity?: number;
  maxRows?: number;
  strategy: Strategy | 'auto';
  balance: Balance;
  partial: PartialDtype;
  sum: SumOrder;
  placement?: string;
  replicas: ReplicaRule;
  tileTokens: number;
  planner: 'wasm' | 'native';
  stream?: boolean;
  json?: boolean;
}

async function plan(routing: string, args: PlanArguments): Promise<void> {
  const {
    experts,
    hidden,
    dtype,
    align,
    capacity = 0,
    strategy,
    tileTokens,
    balance,
    partial,
    sum,
    replicas,
  } = args;
  const notices = new Notices();
  const tables = await withProgress('reading', (progress) =>
    readAnyRouting(routing, { ...routingChoice(args, notices.add), ranks: args.ranks, experts, progress }),
  );
  const { length: ranks } = tables;
  const options: PlanOptions = {
    ...{
      experts,
      ranks,
      hidden,
      dtype,
      align,
      capacity,
      strategy,
      tileTokens,
      balance,
      partial,
      sum,
      replicas,
    },
    ranksPerNode: ranksPerNodeOf(args, ranks, notices.add),
    ...(args.ranksPerHost === undefined ? {} : { ranksPerHost: args.ranksPerHost }),
    ...(args.maxRows === undefined ? {} : { maxRows: args.maxRows }),
    ...(args.placement === undefined
      ? {}
      : { placement: await readPlacement(args.placement, experts, ranks) }),
  };
  const { length, planId, memoryBytes } = await explaining(tables, experts, () =>
    writePlan(tables, options, args),
  );
  if (args.json) {
    const memory = memoryBytes === undefined ? {} : { plannerMemoryBytes: memoryBytes };
    printJson({ planId, file: args.output, bytes: length, ...memory, ...notices.fields });
    return;
  }
  notices.say();
  const entries = tables.reduce((sum, table) => sum + table.ids.length, 0);
  const what = `${tables.length} ranks, ${formatCount(entries)} entries, ${formatBytes(length)}`;
  const memory = memoryBytes === undefined ? '' : ` (planner memory ${formatBytes(memoryBytes)})`;
  say(`plan ${planId.slice(0, 12)}: ${what}${memory} -> ${args.output}`);
}

interface Written {
  readonly length: number;
  readonly planId: string;
  /** Of the Wasm planner. */
  readonly memoryBytes?: number;
}

/** Plans with the chosen planner and writes the file. */
async function writePlan(
  tables: readonly RoutingTable[],
  options: PlanOptions,
  args: PlanArguments,
): Promise<Written> {
  if (args.planner === 'native') {
    if (args.stream)
      throw new FuscoError('E_OPTION', '--planner native plans whole groups: leave out --stream');
    return writeWhole(args.output, (progress) => planAllNatively(tables, options, progress));
  }
  const planner = await loadPlanner();
  const written = args.stream
    ? await writeStream(planner, tables, options, args.output)
    : await writeWhole(args.output, (progress) => planner.planAll(tables, options, progress));
  return { ...written, memoryBytes: planner.memoryBytes };
}

/** The bytes of writeWhole in the memory of one shard at a time. */
async function writeStream(
  planner: Planner,
  tables: readonly RoutingTable[],
  options: PlanOptions,
  output: string,
): Promise<Written> {
  const table = (rank: number) => tables[rank]!;
  const plan = await withProgress('planning', (progress) =>
    planChunked(planner, table, options, nodeHashing, progress),
  );
  await withProgress('writing', (progress) => writeFileAtomic(output, plan.chunks(progress)));
  return plan;
}

async function writeWhole(output: string, planAll: (progress: Progress) => VerifiedPlan): Promise<Written> {
  const planned = await withProgress('planning', async (progress) => planAll(progress));
  const encoded = await encodePlanChunks(planned, nodeSha256);
  await writeFileAtomic(output, encoded.chunks);
  return encoded;
}

export function planCommand(): Command {
  const made = command(
    'plan',
    'Plan a routing table: .npy, .npz, a directory of rank{r}.npy [tokens, topk], or a recording of a serving or training framework.',
  )
    .argument('<routing>', 'expert ids; -1 means no expert')
    .requiredOption('-o, --output <file>', 'the plan file to write')
    .requiredOption('--experts <n>', 'logical experts', integer(1, MAX_INSTANCES))
    .option('--ranks <n>', 'ranks (default: the blocks that the routing has)', integer(1, MAX_RANKS))
    .option(
      '--ranks-per-host <n>',
      'ranks of a machine, whose links --strategy auto takes as fast (default: the ranks of a node)',
      integer(1, MAX_RANKS),
    )
    .option('--hidden <n>', 'elements of a row', integer(1, MAX_ROW_BYTES), 7168)
    .addOption(choice('--dtype <dtype>', 'dtype of a row', ['bf16', 'f16', 'f32', 'fp8']))
    .option('--align <n>', 'rows to which every expert is padded', integer(1, 1 << 20), 1)
    .option('--capacity <n>', 'most rows of one expert (default: no limit)', integer(1, MAX_ROWS))
    .option(
      '--max-rows <n>',
      'fail if a rank would receive more rows (default: no bound)',
      integer(1, MAX_ROWS),
    )
    .addOption(choice('--strategy <name>', 'how rows travel', ['flat', 'hier', 'auto']))
    .addOption(choice('--balance <rule>', 'which rank forwards, in hierarchical plans', BALANCES, 'best'))
    .addOption(choice('--partial <dtype>', 'partial sums of a hierarchical combine', ['payload', 'f32']))
    .addOption(
      choice(
        '--sum <order>',
        'how a hierarchical combine adds: node by node, or by token, with the same bits for any number of ranks',
        ['node', 'token'],
      ),
    )
    .option(
      '--tile-tokens <n>',
      'tokens of a tile; the plan orders the stores of each; 0: no tiles',
      integer(0, 256),
      0,
    )
    .option(
      '--placement <rule|file>',
      'blocks, remainder-first or round-robin; or a JSON array, expert -> rank or list of ranks (default: blocks)',
    )
    .addOption(
      choice('--planner <name>', 'what plans, with the same bytes; native needs the addon', [
        'wasm',
        'native',
      ]),
    )
    .addOption(
      choice(
        '--replicas <rule>',
        'which instance of an expert on several ranks takes a row',
        REPLICA_RULES,
        'quota-1',
      ),
    )
    .option(
      '--stream',
      'chunked: one shard in memory at a time, for plans larger than memory; plans every rank twice',
    )
    .option('--json', 'one JSON object')
    .action(plan);
  return addRoutingOptions(nodeOptions(made));
}
