import type { Command } from 'commander';
import { FuscoError } from '../../planner/errors.ts';
import { MAX_INSTANCES, MAX_RANKS } from '../../planner/format/layout.ts';
import { checkReplicas, convertLayer, type Target } from '../placement/convert.ts';
import { FORMATS, type Format, NAMES, readLayer, readPlacementLayer } from '../placement/placementFile.ts';
import { countChoices, type Imbalance, proposePlacement } from '../placement/propose.ts';
import { readAnyRouting } from '../readers/anyRouting.ts';
import { layerOf, readCounts } from '../readers/counts.ts';
import { explaining } from '../readers/origins.ts';
import { writeFileAtomic } from '../writers/outputFile.ts';
import { command, Notices, printJson, say } from './io.ts';
import {
  addRoutingOptions,
  choice,
  integer,
  type RoutingArguments,
  ranksPerNodeOption,
  routingChoice,
} from './options.ts';

/** Values of `--format` of convert, with other names of formats. */
const FORMAT_NAMES: Readonly<Record<string, Format | undefined>> = {
  auto: undefined,
  ...Object.fromEntries(FORMATS.map((format) => [format, format])),
  trtllm: 'phy2log',
  physical_to_logical_map: 'phy2log',
};

interface ProposeArguments extends RoutingArguments {
  output: string;
  counts?: string;
  routing?: string;
  experts?: number;
  ranks: number;
  replicas: number;
  ranksPerNode?: number;
  json?: boolean;
}

interface ConvertArguments {
  output: string;
  format: string;
  layer?: number;
  ranks: number;
  slots?: number;
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

async function loadsOf(args: ProposeArguments, notices: Notices): Promise<number[]> {
  const { counts: path, routing, experts } = args;
  if ((path === undefined) === (routing === undefined)) {
    throw new FuscoError('E_USAGE', 'give --counts or --routing, and not both');
  }
  if (path !== undefined) {
    const counts = await countsOfFile(path, args.layer);
    if (experts === undefined || experts === counts.length) return counts;
    throw new FuscoError('E_OPTION', `--experts ${experts}, the file counts ${counts.length}`, {
      path,
      hint: 'Leave out --experts, or give the number that the file counts.',
    });
  }
  if (experts === undefined) throw new FuscoError('E_USAGE', '--routing needs --experts');
  const choice = { ...routingChoice(args, notices.add), experts, anyRanks: true };
  const tables = await readAnyRouting(routing!, choice);
  return explaining(tables, experts, () => countChoices(tables, experts));
}

function imbalanceText({ rankMaxOverMean, nodeMaxOverMean }: Imbalance): string {
  return `busiest rank ${rankMaxOverMean.toFixed(2)} x the mean, busiest node ${nodeMaxOverMean.toFixed(2)} x`;
}

async function propose(args: ProposeArguments): Promise<void> {
  const notices = new Notices();
  const loads = await loadsOf(args, notices);
  const { ranks, replicas, ranksPerNode } = args;
  const options = { ranks, replicas, ...(ranksPerNode === undefined ? {} : { ranksPerNode }) };
  const proposal = proposePlacement(loads, options);
  await writeMap(args.output, proposal.map);
  const { before, after } = proposal;
  if (args.json) {
    const { length: experts } = loads;
    printJson({
      file: args.output,
      experts,
      ranks,
      replicas: proposal.replicas,
      before,
      after,
      ...notices.fields,
    });
    return;
  }
  notices.say();
  say(`blocks:   ${imbalanceText(before)}`);
  say(`proposed: ${imbalanceText(after)}, if replicas share their expert's load evenly`);
  if (proposal.replicas < replicas)
    say(`${replicas - proposal.replicas} of ${replicas} replicas found no rank of their own where they help`);
  say(`${loads.length} experts and ${proposal.replicas} replicas on ${ranks} ranks -> ${args.output}`);
}

async function convert(file: string, args: ConvertArguments): Promise<void> {
  const { ranks, slots, layer: at } = args;
  const notices = new Notices();
  const found = await readPlacementLayer(file, FORMAT_NAMES[args.format], at);
  const target: Target = { ranks, slots, path: file };
  const converted = convertLayer(found, target);
  if (args.logcnt !== undefined) {
    const counts = await readLayer(args.logcnt, NAMES.logcnt, 1, at);
    checkReplicas(counts, converted.slots, { ...target, path: args.logcnt });
  }
  const { map, merged, physical, unused } = converted;
  const { format } = found;
  await writeMap(args.output, map);
  if (found.isGuess) notices.add(`${file}: an array of three axes read as ${format}`);
  const total = physical + unused;
  if ((format === 'phy2log' || format === 'log2phy') && total % ranks !== 0) {
    notices.add(`${total} slots on ${ranks} ranks: the first ${total % ranks} have one more`);
  }
  if (unused > 0) notices.add(`${unused} of ${total} slots are empty`);
  if (merged > 0) {
    notices.add(
      `${merged} of ${physical} physical experts share their rank with another replica and become one with it`,
    );
  }
  if (args.json) {
    printJson({ file: args.output, experts: map.length, ranks, format, physical, merged, ...notices.fields });
    return;
  }
  notices.say();
  say(`${map.length} experts, ${physical - merged} instances on ${ranks} ranks -> ${args.output}`);
}

export function placementCommand(): Command {
  const proposeCommand = command(
    'propose',
    'Pack experts on ranks, the busiest ones replicated, from their loads.',
  )
    .requiredOption('-o, --output <file>', 'the JSON map to write: expert -> rank or ranks')
    .option('--counts <file>', 'expert counts; without --layer, the sum of all layers')
    .option('--routing <path>', 'count the choices of a routing, as `fusco plan` takes it, instead')
    .option('--experts <n>', 'logical experts (default: those of the count file)', integer(1, MAX_INSTANCES))
    .requiredOption('--ranks <n>', 'ranks', integer(1, MAX_RANKS))
    .option('--replicas <n>', 'instances beyond one per expert', integer(0, MAX_INSTANCES), 0)
    .addOption(ranksPerNodeOption())
    .option('--json', 'one JSON object')
    .action(propose);
  const convertCommand = command(
    'convert',
    "Read another tool's placement: EPLB's, SGLang's, vLLM's, vllm-ascend's or TensorRT-LLM's.",
  )
    .argument('<file>', '.npy, .npz, .pt, .safetensors, JSON or YAML; one layer or [layers]')
    .addOption(
      choice('--format <name>', 'what the file holds, if it does not say', Object.keys(FORMAT_NAMES)),
    )
    .option('--layer <n>', 'layer of the file', integer(0))
    .requiredOption('--ranks <n>', 'ranks among which the physical experts are split', integer(1, MAX_RANKS))
    .option('--slots <n>', 'physical slots of a log2phy, if the last ones are empty', integer(1, 1 << 20))
    .option('--logcnt <file>', "EPLB's replica counts, to be compared with the map")
    .requiredOption('-o, --output <file>', 'the JSON map to write')
    .option('--json', 'one JSON object')
    .action(convert);
  return command('placement', 'Where experts live: propose a placement, or read one.')
    .addCommand(addRoutingOptions(proposeCommand))
    .addCommand(convertCommand);
}
