// `fusco simulate FILE`: one plan, or every routing of a recording, on one machine.

import type { VerifiedPlan } from '../../../planner/plan.ts';
import type { Planner } from '../../../planner/planner.ts';
import { sum } from '../../../planner/totals.ts';
import { formatBytes, formatCount, formatGrid, formatUs } from '../../figures/format.ts';
import { type Measured, measuredOf } from '../../figures/strategyRows.ts';
import { maxOverMean } from '../../figures/summary.ts';
import { numberOf } from '../../readers/recording.ts';
import { readRunReport } from '../../readers/runReport.ts';
import { adviceOf, bindingStage, strategyName } from '../../simulate/advice.ts';
import { encodeTrace, traceOf } from '../../simulate/chromeTrace.ts';
import { type Comparison, compare, type Prediction } from '../../simulate/compare.ts';
import { expertTime, type Model, modelOf, rankMemory } from '../../simulate/experts.ts';
import { planAgain } from '../../simulate/planAgain.ts';
import { comparisonLines, constantLines, LABEL, timelineLines } from '../../simulate/predictionText.ts';
import { calibrated, defaultTopology, findTopology, type Topology } from '../../simulate/topology.ts';
import { writeFileAtomic } from '../../writers/outputFile.ts';
import { type Notices, print, printJson, say } from '../io.ts';
import type { Subject } from '../subject.ts';

export interface MachineArguments {
  topology?: string | undefined;
  calibration?: string | undefined;
}

/** The requested machine, or the default one for a group. */
export async function machineOf(
  { topology, calibration }: MachineArguments,
  group: { readonly ranks: number; readonly ranksPerNode: number },
): Promise<Topology> {
  if (topology !== undefined) return findTopology(topology, calibration);
  const machine = defaultTopology(group);
  return calibration === undefined ? machine : calibrated(machine, calibration);
}

/** A plan that fits the machine: the given plan, or a plan of its tokens on the ranks of the machine. */
export function fitted(
  plan: VerifiedPlan,
  planner: Planner,
  { name, nodes, ranksPerNode }: Topology,
  notices: Notices,
): VerifiedPlan {
  const most = nodes * ranksPerNode;
  if (plan.spec.ranks <= most) return plan;
  notices.add(
    `${plan.spec.ranks} ranks do not fit ${name}: the same tokens are planned again for its ${most}`,
  );
  return planAgain(plan, planner, { ranks: most });
}

function predictionJson(prediction: Prediction) {
  const { name, resource, rank } = bindingStage(prediction);
  return { ...prediction, bound: { stage: name, resource, rank } };
}

/** The whole layer: the exchanges of a strategy around the experts' work. */
function layerOf(plan: VerifiedPlan, model: Model | undefined, topology: Topology, exchangeUs: number) {
  if (model === undefined) return undefined;
  const experts = expertTime(plan, model, topology);
  const us = exchangeUs + experts.us;
  const tokens = sum(plan.shards.map((shard) => shard.tokens));
  return { model: model.name, experts, us, tokensPerSecond: us === 0 ? 0 : (tokens / us) * 1e6 };
}

function layerLines(
  plan: VerifiedPlan,
  model: Model | undefined,
  topology: Topology,
  exchangeUs: number,
): string {
  const layer = layerOf(plan, model, topology, exchangeUs);
  if (layer === undefined)
    return 'experts: not known; --model NAME or --intermediate N adds their time and memory';
  const { experts, us } = layer;
  const even =
    experts.evenUs < 0.99 * experts.us ? `, ${formatUs(experts.evenUs)} if all ranks had equal rows` : '';
  const why = experts.bound === 'weights' ? 'reading weights' : 'matrix products';
  return [
    `experts of ${layer.model}: ${formatUs(experts.us)} (${why}, rank ${experts.rank})${even}`,
    `layer: ${formatUs(us)} forward, nothing overlapped; ${formatCount(Math.round(layer.tokensPerSecond))} tokens/s through one layer`,
  ].join('\n');
}

function memoryLines(plan: VerifiedPlan, model: Model | undefined, topology: Topology): string {
  const { rank, total, ...parts } = rankMemory(plan, model);
  const shown = Object.entries(parts)
    .filter(([, bytes]) => bytes > 0)
    .map(([name, bytes]) => `${name} ${formatBytes(bytes)}`);
  const room = topology.memoryGB * 1e9;
  const verdict = total <= room ? `fits ${topology.memoryGB} GB` : `does not fit ${topology.memoryGB} GB`;
  const rest = model === undefined ? 'experts' : `attention, caches, optimizer`;
  return `memory of rank ${rank}: ${formatBytes(total)}, ${verdict} (${shown.join(', ')}; without ${rest})`;
}

/** A run of the plan next to its prediction. */
function measuredLine(
  { backend, dispatchUs, combineUs }: Measured,
  { dispatch, combine }: Prediction,
): string {
  const part = (name: string, us: number, modelUs: number) =>
    `${name} ${formatUs(us)}${modelUs === 0 ? '' : ` (${(us / modelUs).toFixed(2)} x the model)`}`;
  const both = `${part('dispatch', dispatchUs, dispatch.us)}, ${part('combine', combineUs, combine.us)}`;
  return `\nmeasured on the ${backend} backend: ${both}`;
}

/** The prediction for one plan, as text. */
function printOne(
  file: string,
  subject: Subject,
  made: VerifiedPlan,
  found: Comparison,
  machine: Machine,
  measured: Measured | undefined,
): void {
  const { topology, model } = machine;
  const { ranks, ranksPerNode } = made.spec;
  const { predictions, own } = found;
  print(`${file} on ${topology.name} (${topology.source})\n${LABEL}`);
  print(
    `plan ${subject.planId.slice(0, 12)}: ${strategyName(predictions[own]!)}, ${ranks} ranks, ${ranksPerNode} per node; NVLink joins ${Math.min(topology.ranksPerNode, ranks)}\n`,
  );
  print(comparisonLines(found));
  if (measured !== undefined) print(measuredLine(measured, predictions[own]!));
  print(`\n${layerLines(made, model, topology, predictions[own]!.us)}`);
  print(memoryLines(made, model, topology));
  print(
    `\ntime from left to right: # at work, - at work and waiting for slices\n${timelineLines(predictions)}`,
  );
  print(`\nconstants\n${constantLines(topology)}`);
  print(`\n${adviceOf(made, found, topology)}`);
}

export interface Machine {
  readonly topology: Topology;
  readonly model: Model | undefined;
}

function oneJson(subject: Subject, made: VerifiedPlan, found: Comparison, { topology, model }: Machine) {
  const { predictions, own, best } = found;
  return {
    planId: subject.planId,
    topology,
    own,
    best,
    strategies: predictions.map(predictionJson),
    layer: layerOf(made, model, topology, predictions[own]!.us) ?? null,
    memory: rankMemory(made, model),
    advice: adviceOf(made, found, topology),
  };
}

export interface SimulateOptions extends MachineArguments {
  readonly notices: Notices;
  trace?: string | undefined;
  /** What `fusco run --json` printed for the plan. */
  run?: string | undefined;
  json?: boolean | undefined;
  /** Of the experts; that of the plan's sizes where it is not given. */
  model?: Model | undefined;
}

/** Predicts one plan. */
export async function simulateOne(
  file: string,
  subject: Subject,
  planner: Planner,
  args: SimulateOptions,
): Promise<void> {
  const topology = await machineOf(args, subject.plan.spec);
  const made = fitted(subject.plan, planner, topology, args.notices);
  const machine = { topology, model: args.model ?? modelOf(made) };
  const found = compare(made, planner, topology);
  const { run } = args;
  const measured = run === undefined ? undefined : measuredOf(await readRunReport(run, subject.planId));
  if (args.trace !== undefined) {
    await writeFileAtomic(args.trace, [encodeTrace(traceOf(made, topology))]);
    say(`timeline of ${made.spec.ranks} ranks -> ${args.trace} (open it in ui.perfetto.dev)`);
  }
  if (args.json) {
    const figures = oneJson(subject, made, found, machine);
    printJson({ model: true, label: LABEL, ...figures, measured, ...args.notices.fields });
    return;
  }
  args.notices.say();
  printOne(file, subject, made, found, machine, measured);
}

/** One routing of a recording, predicted. */
interface Recorded {
  readonly step?: number;
  readonly layer?: number;
  readonly tokens: number;
  readonly rankMaxOverMean: number;
  readonly found: Comparison;
  readonly expertUs: number;
}

function recordedRow({ step, layer, tokens, rankMaxOverMean, found, expertUs }: Recorded): string[] {
  const { predictions, own, best } = found;
  return [
    step === undefined ? '-' : String(step),
    layer === undefined ? '-' : String(layer),
    formatCount(tokens),
    rankMaxOverMean.toFixed(3),
    formatUs(predictions[own]!.us),
    expertUs === 0 ? '-' : formatUs(expertUs),
    `${strategyName(predictions[best]!)} ${formatUs(predictions[best]!.us)}`,
  ];
}

/** Time of each strategy over all routings, for strategies that every routing has. */
function totals(all: readonly Recorded[]): { strategy: string; us: number }[] {
  const names = new Set(all[0]!.found.predictions.map(({ strategy }) => strategy));
  const usOf = ({ found }: Recorded, strategy: string) =>
    Math.min(...found.predictions.filter((each) => each.strategy === strategy).map(({ us }) => us));
  return [...names].map((strategy) => ({ strategy, us: sum(all.map((each) => usOf(each, strategy))) }));
}

/** Predicts every routing of a recording, and prints the sums. */
export async function simulateRecording(
  file: string,
  subjects: AsyncIterable<Subject>,
  planner: Planner,
  args: SimulateOptions,
): Promise<void> {
  const all: Recorded[] = [];
  let topology: Topology | undefined;
  for await (const subject of subjects) {
    const { plan } = subject;
    topology ??= await machineOf(args, plan.spec);
    const made = fitted(plan, planner, topology, args.notices);
    const model = args.model ?? modelOf(made);
    all.push({
      ...numberOf(subject),
      tokens: sum(made.shards.map((shard) => shard.tokens)),
      rankMaxOverMean: maxOverMean(made.shards.map((shard) => sum(shard.expertRows))),
      found: compare(made, planner, topology),
      expertUs: model === undefined ? 0 : expertTime(made, model, topology).us,
    });
  }
  const worst = all.reduce((most, each) => (each.rankMaxOverMean > most.rankMaxOverMean ? each : most));
  if (args.json) {
    const routings = all.map(({ found, ...rest }) => ({
      ...rest,
      own: found.own,
      best: found.best,
      strategies: found.predictions.map(({ strategy, rule, us }) => ({ strategy, rule, us })),
    }));
    printJson({ model: true, label: LABEL, topology, routings, totals: totals(all), ...args.notices.fields });
    return;
  }
  args.notices.say();
  print(`${file}: ${formatCount(all.length)} routings on ${topology!.name}\n${LABEL}\n`);
  const head = ['step', 'layer', 'tokens', 'imbalance', 'exchange', 'experts', 'fastest'];
  print(formatGrid([head, ...all.map(recordedRow)]));
  const mean = sum(all.map(({ rankMaxOverMean }) => rankMaxOverMean)) / all.length;
  const where = [worst.step, worst.layer].map((number) => number ?? '-');
  print(
    `\nimbalance: ${mean.toFixed(3)} on average, ${worst.rankMaxOverMean.toFixed(3)} at most (step ${where[0]}, layer ${where[1]})`,
  );
  for (const { strategy, us } of totals(all)) print(`${strategy}: ${formatUs(us)} in all`);
}
