import type { Command } from 'commander';
import { planId } from '../../planner/codec.ts';
import { loadPlanner, nodeSha256 } from '../../planner/node.ts';
import { optionsOf } from '../../planner/spec.ts';
import { bodyLines } from '../diff/render.ts';
import { diffPlans } from '../diff.ts';
import { readAnyRouting } from '../readers/foreign.ts';
import { ComparisonFailed, command, print, printJson, readVerifiedPlan, say } from './io.ts';
import { addRoutingOptions, type RoutingArguments } from './routing.ts';

interface VerifyArguments extends RoutingArguments {
  routing?: string;
  json?: boolean;
}

async function verify(file: string, options: VerifyArguments): Promise<void> {
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
  if (options.json)
    printJson({ planId: decoded.planId, verified: true, ...(matches === undefined ? {} : { matches }) });
  else if (matches !== false) {
    print(`verified ${decoded.planId}`);
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
    .option('--json', 'one JSON object')
    .action(verify);
  return addRoutingOptions(made);
}
