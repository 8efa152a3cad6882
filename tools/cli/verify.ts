import { stat } from 'node:fs/promises';
import type { Command } from 'commander';
import { planChunked } from '../../planner/chunked.ts';
import { planId } from '../../planner/format/digest.ts';
import { loadPlanner, nodeHashing, nodeSha256 } from '../../planner/node.ts';
import type { RoutingTable } from '../../planner/routing.ts';
import { optionsOf, type PlanSpec } from '../../planner/spec.ts';
import type { VerifiedFile } from '../../planner/verify/chunked.ts';
import { diffPlans } from '../diff/diffPlans.ts';
import { readAnyRouting } from '../readers/anyRouting.ts';
import { explaining } from '../readers/origins.ts';
import { readVerifiedPlan, verifyFile } from '../readers/planFile.ts';
import { withProgress } from '../terminal/progress.ts';
import { ComparisonFailed, command, Notices, print, printJson, say } from './io.ts';
import { addRoutingOptions, type RoutingArguments, routingChoice } from './options.ts';

interface VerifyArguments extends RoutingArguments {
  routing?: string;
  stream?: boolean;
  json?: boolean;
}

/** Files of at least this size are verified shard by shard, which takes longer but needs memory for only one shard. */
const CHUNKED_BYTES = 256 * 2 ** 20;

/** Whether the plan of a routing is the one that was verified; the routing is planned one rank at a time. */
async function isPlanOf(tables: readonly RoutingTable[], { plan, planId: wanted }: VerifiedFile) {
  const options = optionsOf(plan.spec);
  const source = (rank: number) => tables[rank]!;
  const planner = await loadPlanner();
  if (tables.length !== plan.spec.ranks || tables[0]!.topk !== plan.spec.topk) return false;
  return withProgress('planning', async (progress) => {
    const again = await planChunked(planner, source, options, nodeHashing, progress);
    return again.planId === wanted;
  });
}

/** The routing to compare with, of the ranks of the plan. */
function readTables(routing: string, args: VerifyArguments, { ranks, experts }: PlanSpec, notices: Notices) {
  return readAnyRouting(routing, { ...routingChoice(args, notices.add), ranks, experts });
}

async function verifyLarge(file: string, options: VerifyArguments, notices: Notices): Promise<void> {
  const found = await withProgress('verifying', (progress) => verifyFile(file, progress));
  const { spec } = found.plan;
  if (options.routing === undefined) return report(file, options, notices, found.planId);
  const tables = await readTables(options.routing, options, spec, notices);
  const matches = await explaining(tables, spec.experts, () => isPlanOf(tables, found));
  report(file, options, notices, found.planId, matches);
}

async function verify(file: string, options: VerifyArguments): Promise<void> {
  const notices = new Notices();
  const size = await stat(file).then(
    (found) => found.size,
    () => 0,
  );
  if (options.stream ?? size >= CHUNKED_BYTES) return verifyLarge(file, options, notices);
  const { plan, planId: wanted } = await readVerifiedPlan(file);
  if (options.routing === undefined) return report(file, options, notices, wanted);
  const { spec } = plan;
  const tables = await readTables(options.routing, options, spec, notices);
  const planner = await loadPlanner();
  const again = await explaining(tables, spec.experts, () => planner.planAll(tables, optionsOf(spec)));
  const matches = (await planId(again, nodeSha256)) === wanted;
  report(file, options, notices, wanted, matches, matches ? undefined : diffPlans(plan, again).headline);
}

/** Prints the result; throws ComparisonFailed if the plan is not that of the routing. */
function report(
  file: string,
  options: VerifyArguments,
  notices: Notices,
  planId: string,
  matches?: boolean,
  first?: string,
): void {
  if (options.json) printJson({ planId, verified: true, matches, ...notices.fields });
  else notices.say();
  if (!options.json && matches !== false) {
    print(`verified ${planId}`);
    if (matches) print(`it is the plan of ${options.routing}`);
  }
  if (matches === false) {
    say(`${file} is not the plan of ${options.routing}: ${first ?? 'it differs'}`);
    throw new ComparisonFailed();
  }
}

export function verifyCommand(): Command {
  const made = command(
    'verify',
    'Check everything that a plan states; with --routing, also that it is the plan of that routing.',
  )
    .argument('<file>', 'a plan file')
    .option('--routing <routing>', 'a routing, in any form that `fusco plan` accepts')
    .option('--stream', 'keep only one shard in memory (default: for files of 256 MiB or more)')
    .option('--no-stream', 'read the whole file into memory')
    .option('--json', 'print one JSON object')
    .action(verify);
  return addRoutingOptions(made);
}
