import { basename } from 'node:path';
import type { Command } from 'commander';
import { FuscoError } from '../../planner/errors.ts';
import type { DecodedPlan } from '../../planner/format/decode.ts';
import { loadPlanner } from '../../planner/node.ts';
import { isVerified, type VerifiedPlan } from '../../planner/plan.ts';
import { sum } from '../../planner/totals.ts';
import { verifyPlan } from '../../planner/verify/verify.ts';
import { factsOf, memoryFact, sumFacts } from '../figures/facts.ts';
import { formatBytes, formatCount, formatFacts, formatGrid, formatUs } from '../figures/format.ts';
import { figuresOf } from '../figures/planFigures.ts';
import { type RecordedFigures, recordedFigures } from '../figures/recorded.ts';
import { type Measured, measuredOf, strategiesOf } from '../figures/strategyRows.ts';
import { type Summary, summarize } from '../figures/summary.ts';
import { type SumPrice, sumPriceOf } from '../figures/sumPrice.ts';
import { isRoutingFile, readPlan } from '../readers/planFile.ts';
import { numberOf } from '../readers/recording.ts';
import { readRunReport } from '../readers/runReport.ts';
import { encodeRecording, encodeReport } from '../report/write.ts';
import { predictPlan } from '../simulate/compare.ts';
import { defaultTopology } from '../simulate/topology.ts';
import { styleOf } from '../terminal/style.ts';
import { drawTraffic } from '../terminal/traffic.ts';
import { writeFileAtomic } from '../writers/outputFile.ts';
import { command, ErrorsShown, errorLine, Notices, print, printJson, say } from './io.ts';
import { addSubjectOptions, type SubjectArguments, subjectsOf } from './subject.ts';

const MAX_PROBLEMS = 20;

/** The facts of a plan, one label and value per line. */
export function factLines(summary: Summary): string {
  return formatFacts(factsOf(summary));
}

/** The traffic matrix and the loads, as standard output can show them. */
export function trafficLines(summary: Summary): string {
  return drawTraffic(summary, styleOf(process.stdout));
}

interface Shown {
  readonly summary: Summary;
  readonly sumPrice: SumPrice | undefined;
  readonly measured: Measured | undefined;
  readonly verified: boolean;
}

function printSummary(
  file: string,
  decoded: DecodedPlan,
  { summary, sumPrice, measured, verified }: Shown,
): void {
  print(`${file}`);
  print(`plan ${decoded.planId}`);
  print(
    `format ${decoded.version.join('.')}, written by ${decoded.producer}, ${verified ? 'verified' : 'BROKEN'}\n`,
  );
  const predicted = isVerified(decoded.plan) ? [predictedFact(decoded.plan)] : [];
  const price = sumPrice === undefined ? [] : sumFacts(sumPrice);
  const run = measured === undefined ? [] : [measuredFact(measured)];
  print(formatFacts([...factsOf(summary), memoryFact(summary), ...predicted, ...run, ...price]));
  print(`\n${trafficLines(summary)}`);
}

function measuredFact({ backend, dispatchUs, combineUs }: Measured): [string, string] {
  const parts = `dispatch ${formatUs(dispatchUs)}, combine ${formatUs(combineUs)}`;
  return ['measured', `${formatUs(dispatchUs + combineUs)} on the ${backend} backend: ${parts}`];
}

/** The predicted time of a plan on the default machine. */
function predictedFact(plan: VerifiedPlan): [string, string] {
  const topology = defaultTopology(plan.spec);
  const { strategy, us } = predictPlan(plan, topology);
  return ['predicted', `${formatUs(us)}, ${strategy} on ${topology.name} (model; see simulate)`];
}

async function writeReport(
  path: string,
  file: string,
  decoded: DecodedPlan,
  problems: readonly FuscoError[],
  measured: Measured | undefined,
): Promise<void> {
  const { plan, planId, producer, version } = decoded;
  const found = figuresOf(plan, problems.length === 0);
  const run = measured === undefined ? {} : { measured };
  const figures = isVerified(plan)
    ? { ...found, strategies: { ...strategiesOf(plan, await loadPlanner()), ...run } }
    : found;
  const input = { file: basename(file), planId, producer, version, figures, problems };
  const bytes = await encodeReport(input);
  await writeFileAtomic(path, [bytes]);
  say(`report of plan ${planId.slice(0, 12)}: ${formatBytes(bytes.length)} -> ${path}`);
}

function routingsText(count: number): string {
  return `${formatCount(count)} ${count === 1 ? 'routing' : 'routings'}`;
}

/** Plans every routing of a recording, or the one of a routing file, and prints one line for each. */
async function inspectRoutings(file: string, args: InspectArguments): Promise<void> {
  if (args.run !== undefined)
    throw new FuscoError('E_USAGE', '--run is only valid with a plan file', { path: file });
  const planner = await loadPlanner();
  const notices = new Notices();
  const routings: RecordedFigures[] = [];
  for await (const subject of subjectsOf(file, args, planner, notices.add))
    routings.push(recordedFigures(subject.plan, planner, numberOf(subject)));
  if (args.html !== undefined) {
    const bytes = await encodeRecording({ file: basename(file), routings });
    await writeFileAtomic(args.html, [bytes]);
    say(`report of ${routingsText(routings.length)}: ${formatBytes(bytes.length)} -> ${args.html}`);
  }
  if (args.json) {
    printJson({ model: true, routings, ...notices.fields });
    return;
  }
  notices.say();
  const head = ['step', 'layer', 'tokens', 'busiest rank', 'busiest expert', 'predicted', 'fastest'];
  const rows = routings.map((each) => [
    String(each.step ?? '-'),
    String(each.layer ?? '-'),
    formatCount(each.tokens),
    `${each.rankMaxOverMean.toFixed(3)} x`,
    `${each.expertMaxOverMean.toFixed(3)} x`,
    formatUs(each.us),
    `${each.best} ${formatUs(each.bestUs)}`,
  ]);
  const mean = sum(routings.map(({ rankMaxOverMean }) => rankMaxOverMean)) / routings.length;
  const worst = Math.max(...routings.map(({ rankMaxOverMean }) => rankMaxOverMean));
  print(`${file}: ${routingsText(routings.length)}; times are predicted by a cost model\n`);
  print(formatGrid([head, ...rows]));
  print(`\nbusiest rank: ${mean.toFixed(3)} x the mean on average, ${worst.toFixed(3)} x at most`);
}

interface InspectArguments extends SubjectArguments {
  json?: boolean;
  html?: string;
  run?: string;
}

async function inspect(file: string, options: InspectArguments): Promise<void> {
  const { given, layers, steps } = options;
  const isAsked = given!.size > 0 || layers !== undefined || steps !== undefined;
  if (isAsked || isRoutingFile(file)) return inspectRoutings(file, options);
  const problems: FuscoError[] = [];
  const report = (error: FuscoError) => void problems.push(error);
  const decoded = await readPlan(file, report);
  verifyPlan(decoded.plan, report);
  const { run } = options;
  const measured = run === undefined ? undefined : measuredOf(await readRunReport(run, decoded.planId));
  if (options.html !== undefined) await writeReport(options.html, file, decoded, problems, measured);
  const verified = problems.length === 0;
  const summary = summarize(decoded.plan);
  // It follows from the entries, which can be read only in a verified plan.
  const sumPrice = verified ? sumPriceOf(decoded.plan) : undefined;
  if (options.json) {
    const { planId, version, producer } = decoded;
    const found = problems.map(({ code, message }) => ({ code, message }));
    printJson({ planId, version, producer, verified, problems: found, ...summary, sumPrice, measured });
  } else {
    printSummary(file, decoded, { summary, sumPrice, measured, verified });
  }
  for (const problem of problems.slice(0, MAX_PROBLEMS - 1)) say(errorLine(problem));
  if (problems.length >= MAX_PROBLEMS) say(`… and ${problems.length - MAX_PROBLEMS + 1} more`);
  if (problems.length > 0) throw new ErrorsShown();
}

export function inspectCommand(): Command {
  const made = command(
    'inspect',
    'Show what a plan does, on one screen (a broken plan as far as possible), or list the routings of a recording.',
  )
    .argument('<file>', 'a plan file, a routing or a recording')
    .option('--json', 'print one JSON object')
    .option('--html <file>', 'also write a report with charts: one HTML file that needs no network')
    .option('--run <file>', 'also show the times that `fusco run --json` printed for this plan')
    .addHelpText('after', '\nThe other options apply to a routing or a recording, which is planned first.')
    .action(inspect);
  return addSubjectOptions(made);
}
