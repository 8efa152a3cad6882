import { type Command, Option } from 'commander';
import { FuscoError } from '../../planner/errors.ts';
import { MAX_INSTANCES, MAX_RANKS } from '../../planner/format/layout.ts';
import type { RoutingTable } from '../../planner/routing.ts';
import {
  checkReplicas,
  FORMATS,
  type Format,
  fromLogical,
  fromPhysical,
  readLayer,
  slotCounts,
} from '../placement/convert.ts';
import { countChoices, type Imbalance, proposePlacement } from '../placement/propose.ts';
import { layerOf, readCounts } from '../readers/counts.ts';
import { readRouting } from '../readers/numpyRouting.ts';
import { isPlanFile, readVerifiedPlan } from '../readers/planFile.ts';
import { routingOf } from '../simulate/compare.ts';
import { writeFileAtomic } from '../writers/outputFile.ts';
import { command, printJson, say } from './io.ts';
import { integer, needs, ranksPerNodeOption } from './options.ts';

interface ProposeArguments {
  output: string;
  counts?: string;
  layer?: number;
  routing?: string;
  experts?: number;
  ranks: number;
  replicas: number;
  ranksPerNode?: number;
  json?: boolean;
}

interface ConvertArguments {
  output: string;
  format: Format;
  layer?: number;
  ranks: number;
  logcnt?: string;
  json?: boolean;
}

async function writeMap(path: string, map: unknown): Promise<void> {
  await writeFileAtomic(path, [new TextEncoder().encode(`${JSON.stringify(map)}\n`)]);
}

/** One layer's counts, or the sum of all layers. */
async function countsOfFile(path: string, layer: number | undefined): Promise<number[]> {
  const layers = await readCounts(path);
  if (layer !== undefined) return layerOf(layers, layer, path);
  return layers[0]!.map((_, expert) => layers.reduce((sum, counts) => sum + counts[expert]!, 0));
}

async function loadsOf(args: ProposeArguments): Promise<number[]> {
  const { counts: path, routing, experts } = args;
  if ((path === undefined) === (routing === undefined)) {
    throw new FuscoError('E_USAGE', 'give --counts or --routing, and not both');
  }
  if (path !== undefined) {
    const counts = await countsOfFile(path, args.layer);
    if (experts === undefined || experts === counts.length) return counts;
    throw new FuscoError('E_OPTION', `--experts ${experts}, the file counts ${counts.length}`, { path });
  }
  if (isPlanFile(routing!)) {
    const { plan } = await readVerifiedPlan(routing!);
    return countChoices(routingOf(plan), plan.spec.experts);
  }
  if (experts === undefined) throw new FuscoError('E_USAGE', '--routing needs --experts');
  if (args.layer !== undefined) throw new FuscoError('E_USAGE', '--layer belongs to --counts');
  return countChoices(await readAnyRouting(routing!, args.ranks), experts);
}

/** A routing however many ranks it is for; one array [tokens, topk] does not say, and then the split is ours. */
async function readAnyRouting(path: string, ranks: number): Promise<RoutingTable[]> {
  try {
    return await readRouting(path);
  } catch (error) {
    if (error instanceof FuscoError && error.code === 'E_RANKS') return readRouting(path, ranks);
    throw error;
  }
}

function imbalanceText({ rankMaxOverMean, nodeMaxOverMean }: Imbalance): string {
  return `busiest rank ${rankMaxOverMean.toFixed(2)} x the mean, busiest node ${nodeMaxOverMean.toFixed(2)} x`;
}

async function propose(args: ProposeArguments): Promise<void> {
  const loads = await loadsOf(args);
  const { ranks, replicas, ranksPerNode } = args;
  const options = { ranks, replicas, ...(ranksPerNode === undefined ? {} : { ranksPerNode }) };
  const proposal = proposePlacement(loads, options);
  await writeMap(args.output, proposal.map);
  const { before, after } = proposal;
  if (args.json) {
    const { length: experts } = loads;
    printJson({ file: args.output, experts, ranks, replicas: proposal.replicas, before, after });
    return;
  }
  say(`blocks:   ${imbalanceText(before)}`);
  say(`proposed: ${imbalanceText(after)}, if replicas share their expert's load evenly`);
  if (proposal.replicas < replicas)
    say(`${replicas - proposal.replicas} of ${replicas} replicas found no rank of their own`);
  say(`${loads.length} experts and ${proposal.replicas} replicas on ${ranks} ranks -> ${args.output}`);
}

async function convert(file: string, args: ConvertArguments): Promise<void> {
  const { format, ranks, layer: at } = args;
  const layer = await readLayer(file, format, format === 'log2phy' ? 2 : 1, at);
  const converted = format === 'log2phy' ? fromLogical(layer, ranks, file) : fromPhysical(layer, ranks, file);
  if (args.logcnt !== undefined) {
    checkReplicas(await readLayer(args.logcnt, 'logcnt', 1, at), slotCounts(format, layer), args.logcnt);
  }
  const { map, merged, physical } = converted;
  await writeMap(args.output, map);
  if (merged > 0) {
    say(
      `${merged} of ${physical} physical experts share their rank with another replica and become one with it`,
    );
  }
  if (args.json) printJson({ file: args.output, experts: map.length, ranks, physical, merged });
  else say(`${map.length} experts, ${physical - merged} instances on ${ranks} ranks -> ${args.output}`);
}

export function placementCommand(): Command {
  const proposeCommand = command(
    'propose',
    'Pack experts on ranks, the busiest ones replicated, from their loads.',
  )
    .option('-o, --output <file>', 'the JSON map to write: expert -> rank or ranks (required)')
    .option('--counts <file>', 'expert counts: {"logical_count": [layers][experts]}')
    .option('--layer <n>', 'layer of the count file (default: the sum of all)', integer(0))
    .option('--routing <path>', 'count the choices of a routing, or of a plan, instead')
    .option('--experts <n>', 'logical experts (default: those of the count file)', integer(1, MAX_INSTANCES))
    .option('--ranks <n>', 'ranks (required)', integer(1, MAX_RANKS))
    .option('--replicas <n>', 'instances beyond one per expert', integer(0, MAX_INSTANCES), 0)
    .addOption(ranksPerNodeOption())
    .option('--json', 'one JSON object')
    .hook('preAction', needs('output', 'ranks'))
    .action(propose);
  const convertCommand = command('convert', "Read another tool's placement: EPLB's, or SGLang's.")
    .argument('<file>', '.npy or JSON, one layer or [layers]')
    .addOption(new Option('--format <name>', 'what the file holds').choices(FORMATS).makeOptionMandatory())
    .option('--layer <n>', 'layer of the file', integer(0))
    .option(
      '--ranks <n>',
      'ranks among which the physical experts are split (required)',
      integer(1, MAX_RANKS),
    )
    .option('--logcnt <file>', "EPLB's replica counts, to be compared with the map")
    .option('-o, --output <file>', 'the JSON map to write (required)')
    .option('--json', 'one JSON object')
    .hook('preAction', needs('output', 'ranks'))
    .action(convert);
  return command('placement', 'Where experts live: propose a placement, or read one.')
    .addCommand(proposeCommand)
    .addCommand(convertCommand);
}
