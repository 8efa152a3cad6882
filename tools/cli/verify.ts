import { stat } from 'node:fs/promises';
import type { Command } from 'commander';
import { planChunked } from '../../planner/chunked.ts';
import { FuscoError } from '../../planner/errors.ts';
import { planId } from '../../planner/format/digest.ts';
import { loadPlanner, nodeHashing, nodeSha256 } from '../../planner/node.ts';
import type { RoutingTable } from '../../planner/routing.ts';
import { optionsOf } from '../../planner/spec.ts';
import type { VerifiedFile } from '../../planner/verify/chunked.ts';
import { bodyLines } from '../diff/render.ts';
import { diffPlans } from '../diff.ts';
import { verifyFile } from '../planFile.ts';
import { readAnyRouting } from '../readers/foreign.ts';
import { withProgress } from '../terminal/progress.ts';
import { ComparisonFailed, command, prefixed, print, printJson, readVerifiedPlan, say } from './io.ts';
import { addRoutingOptions, type RoutingArguments } from './routing.ts';

interface VerifyArguments extends RoutingArguments {
  routing?: string;
  stream?: boolean;
  json?: boolean;
}

/** Files from here on are verified shard by shard, which takes longer and needs the memory of one shard. */
const STREAM_BYTES = 256 * 2 ** 20;

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

async function verifyLarge(file: string, options: VerifyArguments): Promise<void> {
  const found = await withProgress('verifying', (progress) => verifyFile(file, progress)).catch((error) => {
    const isNamed = !(error instanceof FuscoError) || error.details.path === file;
    throw isNamed ? error : prefixed(file, error);
  });
  let matches: boolean | undefined;
  if (options.routing !== undefined) {
    const { format, layer, step } = options;
    const { ranks } = found.plan.spec;
    matches = await isPlanOf(await readAnyRouting(options.routing, { format, layer, step, ranks }), found);
  }
  report(file, options, found.planId, matches, undefined);
}

async function verify(file: string, options: VerifyArguments): Promise<void> {
  const size = await stat(file).then(
    (found) => found.size,
    () => 0,
  );
  if (options.stream ?? size >= STREAM_BYTES) return verifyLarge(file, options);
  const decoded = await readVerifiedPlan(file);
  const { spec } = decoded.plan;
  let matches: boolean | undefined;
  let first: string | undefined;
  if (options.routing !== undefined) {
    const { format, layer, step } = options;
    const tables = await readAnyRouting(options.routing, { format, layer, step, ranks: spec.ranks });
    const planner = await loadPlanner();
    const again = planner.planAll(tables, optionsOf(spec));
    matches = (await planId(again, nodeSha256)) === decoded.planId;
    if (!matches) first = bodyLines(diffPlans(decoded.plan, again))[0];
  }
  report(file, options, decoded.planId, matches, first);
}

/** Prints the verdict; throws ComparisonFailed where the plan is not that of the routing. */
function report(
  file: string,
  options: VerifyArguments,
  planId: string,
  matches: boolean | undefined,
  first: string | undefined,
): void {
  if (options.json) printJson({ planId, verified: true, ...(matches === undefined ? {} : { matches }) });
  else if (matches !== false) {
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
    'Check everything that a plan says; with --routing, also that it is the plan of that routing.',
  )
    .argument('<file>', 'a plan file')
    .option('--routing <routing>', 'routing as `fusco plan` takes it')
    .option('--stream', 'shard by shard in the memory of one (default: from 256 MiB on)')
    .option('--no-stream', 'the whole file in memory')
    .option('--json', 'one JSON object')
    .action(verify);
  return addRoutingOptions(made);
}
