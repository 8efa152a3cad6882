import type { Command } from 'commander';
import { FuscoError } from '../../planner/errors.ts';
import { MAX_INSTANCES, MAX_RANKS, MAX_ROW_BYTES, MAX_ROWS, MAX_TOPK } from '../../planner/format/layout.ts';
import type { RoutingTable } from '../../planner/routing.ts';
import { formatCount } from '../figures/format.ts';
import { layerOf, readCounts } from '../readers/counts.ts';
import { encodeNpy } from '../readers/npy.ts';
import { counterWeights } from '../workload/counterHash.ts';
import { DEFAULT_SKEW, FAMILIES, type Family, makeWorkload, sampleCounts } from '../workload/families.ts';
import { checksumOf, type PayloadDtype, payloadRows } from '../workload/payload.ts';
import { OutputDirectory, writeFileAtomic, writeOutput } from '../writers/outputFile.ts';
import { checkStdout, command, printJson, say } from './io.ts';
import { choice, integer, needs, ranksPerNodeOption } from './options.ts';

interface WorkloadArguments {
  output: string;
  seed: number;
  step: number;
  ranks: number;
  tokens: number;
  topk: number;
  experts?: number;
  skew: number;
  ranksPerNode?: number;
  fromCounts?: string;
  layer?: number;
  weights?: string;
  rows?: string;
  hidden: number;
  dtype: PayloadDtype;
  json?: boolean;
}

/** Tables from a model are labeled as such wherever they are shown. */
const COUNTS_LABEL = 'model: drawn from expert counts, each expert by its share';

async function fromCounts(
  path: string,
  args: WorkloadArguments,
): Promise<{ tables: RoutingTable[]; experts: number }> {
  if (args.layer === undefined) throw new FuscoError('E_USAGE', '--from-counts needs --layer');
  const counts = layerOf(await readCounts(path), args.layer, path);
  if (args.experts !== undefined && args.experts !== counts.length) {
    throw new FuscoError('E_OPTION', `--experts ${args.experts}, the file counts ${counts.length}`, {
      path,
      hint: 'Leave out --experts, or give the number that the file counts.',
    });
  }
  return { tables: sampleCounts(counts, args), experts: counts.length };
}

function fromFamily(family: Family, args: WorkloadArguments): { tables: RoutingTable[]; experts: number } {
  const { experts } = args;
  if (experts === undefined) throw new FuscoError('E_USAGE', 'a family needs --experts');
  if (args.layer !== undefined) throw new FuscoError('E_USAGE', '--layer is only valid with --from-counts');
  return { tables: makeWorkload({ ...args, family, experts }), experts };
}

/** The gate weights that belong to a family's tables, f32 [ranks, tokens, topk]. */
async function writeWeights(path: string, args: WorkloadArguments): Promise<void> {
  const { ranks, tokens, topk } = args;
  const weights = Float32Array.from(counterWeights(args).flatMap((rank) => [...rank]));
  await writeFileAtomic(path, encodeNpy('f32', [ranks, tokens, topk], weights));
}

/** Writes rows that identify their token, one file per rank. */
async function writeRows(path: string, tables: readonly RoutingTable[], args: WorkloadArguments) {
  const directory = await OutputDirectory.create(path);
  for (const [rank, { tokens }] of tables.entries()) {
    const { dtype, shape, data } = payloadRows(rank, tokens, args.hidden, args.dtype, args.step);
    await directory.write(`rank${rank}.npy`, encodeNpy(dtype, shape, data));
  }
}

/** One array if all ranks have the same number of tokens, else a directory with one file per rank. */
async function writeTables(
  path: string,
  tables: readonly RoutingTable[],
  experts: number,
): Promise<'file' | 'directory'> {
  const dtype = experts <= 0x8000 ? 'i16' : 'i32';
  const join = (parts: readonly RoutingTable[]) => {
    const all = parts.flatMap(({ ids }) => Array.from(ids, Number));
    return dtype === 'i16' ? Int16Array.from(all) : Int32Array.from(all);
  };
  const { tokens, topk } = tables[0]!;
  if (tables.every((table) => table.tokens === tokens)) {
    await writeOutput(path, encodeNpy(dtype, [tables.length, tokens, topk], join(tables)));
    return 'file';
  }
  const directory = await OutputDirectory.create(path);
  for (const [rank, table] of tables.entries()) {
    await directory.write(`rank${rank}.npy`, encodeNpy(dtype, [table.tokens, topk], join([table])));
  }
  return 'directory';
}

async function workload(family: string | undefined, args: WorkloadArguments): Promise<void> {
  const { fromCounts: path } = args;
  if ((family === undefined) === (path === undefined)) {
    throw new FuscoError('E_USAGE', 'give a family or --from-counts, and not both');
  }
  if (family !== undefined && !Object.hasOwn(FAMILIES, family)) {
    throw new FuscoError('E_USAGE', `family ${family} is not one of ${Object.keys(FAMILIES).join(', ')}`);
  }
  if (args.weights !== undefined && family !== 'collectivex') {
    throw new FuscoError('E_USAGE', '--weights is only valid for the family collectivex');
  }
  checkStdout(args.output, '-o', args);
  const { tables, experts } =
    path === undefined ? fromFamily(family as Family, args) : await fromCounts(path, args);
  const kind = await writeTables(args.output, tables, experts);
  if (args.weights !== undefined) await writeWeights(args.weights, args);
  if (args.rows !== undefined) await writeRows(args.rows, tables, args);
  const checksum = await checksumOf(tables);
  const tokens = tables.map((table) => table.tokens);
  const label = path === undefined ? familyText(family as Family, args) : COUNTS_LABEL;
  if (args.json) {
    const { output, seed, step, ranks, topk } = args;
    const source = path === undefined ? { family } : { fromCounts: path, layer: args.layer };
    const model = path !== undefined;
    const checksums = await Promise.all(tables.map((table) => checksumOf([table])));
    const sizes = { ranks, tokens, topk, experts };
    printJson({ ...source, model, label, seed, step, ...sizes, output, kind, checksum, checksums });
    return;
  }
  const total = tokens.reduce((sum, count) => sum + count, 0);
  say(label);
  say(
    `${formatCount(total)} tokens on ${tables.length} ranks, top-${args.topk} of ${experts} -> ${args.output}`,
  );
  say(`sha256 of the ids ${checksum}`);
}

/** The description of a family, with the numbers of this table. */
function familyText(family: Family, { skew, step, ranks, tokens }: WorkloadArguments): string {
  return FAMILIES[family]
    .replace('SKEW', `${skew}`)
    .replace('STEP mod RANKS', `${step % ranks}`)
    .replace('TOKENS', `${tokens}`);
}

const FAMILY_HELP = Object.entries(FAMILIES)
  .map(([name, text]) => `  ${name.padEnd(20)}${text}`)
  .join('\n');

export function workloadCommand(): Command {
  const seeds = integer(0, 2 ** 32 - 1);
  return command('workload', 'Write a routing table of a known shape; the same options give the same table.')
    .argument('[family]', 'one of the families below')
    .option(
      '-o, --output <path>',
      'the .npy file to write, or a directory if ranks have different numbers of tokens (required)',
    )
    .option('--seed <n>', 'seed of the random numbers', seeds, 0)
    .option('--step <n>', 'training step, for families that change over time', seeds, 0)
    .option('--ranks <n>', 'number of ranks (required)', integer(1, MAX_RANKS))
    .option('--tokens <n>', 'tokens per rank, or their maximum (required)', integer(0, MAX_ROWS))
    .option('--topk <n>', 'experts per token (required)', integer(1, MAX_TOPK))
    .option(
      '--experts <n>',
      'logical experts (default with --from-counts: those of the file)',
      integer(1, MAX_INSTANCES),
    )
    .option(
      '--skew <n>',
      'how many times as likely a hot expert is as another',
      integer(1, 1000),
      DEFAULT_SKEW,
    )
    .addOption(ranksPerNodeOption('for one-node: '))
    .option('--from-counts <file>', 'draw from expert counts: {"logical_count": [layers][experts]}')
    .option('--layer <n>', 'layer of the count file', integer(0))
    .option('--weights <file>', 'for collectivex: also write its gate weights, f32')
    .option('--rows <dir>', 'also write rank{r}.npy [tokens, hidden] with rows that identify their token')
    .option('--hidden <n>', 'elements of a row of --rows', integer(1, MAX_ROW_BYTES / 4), 7168)
    .addOption(choice('--dtype <dtype>', 'dtype of --rows', ['bf16', 'f16', 'f32', 'fp8']))
    .option('--json', 'print one JSON object, with a checksum of each table')
    .hook('preAction', needs('output', 'ranks', 'tokens', 'topk'))
    .addHelpText('after', `\nFamilies:\n${FAMILY_HELP}`)
    .action(workload);
}
