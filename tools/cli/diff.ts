import type { Command } from 'commander';
import type { DecodedPlan } from '../../planner/codec.ts';
import { type DiffLevel, diffPlans, type PlanDiff } from '../diff.ts';
import { ComparisonFailed, command, print, printJson, readPlan } from './io.ts';

const HEADLINES: Record<DiffLevel, string> = {
  result: 'the result changed',
  movement: 'same result, different movement',
  order: 'same movement, different order',
  metadata: 'same plan, other metadata',
  identical: 'identical',
};

function withMetadata(a: DecodedPlan, b: DecodedPlan, diff: PlanDiff): PlanDiff {
  if (diff.level !== 'identical') return diff;
  if (a.producer === b.producer && a.version.join() === b.version.join()) return diff;
  return { ...diff, level: 'metadata', changed: true, lines: [`producer: ${a.producer} -> ${b.producer}`] };
}

async function diff(fileA: string, fileB: string, options: { json?: boolean }): Promise<void> {
  const [a, b] = [await readPlan(fileA), await readPlan(fileB)];
  const result = withMetadata(a, b, diffPlans(a.plan, b.plan));
  if (options.json) {
    const { lines: _, ...data } = result;
    printJson({ from: a.planId, to: b.planId, ...data });
  } else {
    print(`${HEADLINES[result.level]}  ${a.planId.slice(0, 12)} -> ${b.planId.slice(0, 12)}`);
    for (const line of result.lines) print(`  ${line}`);
  }
  if (result.changed) throw new ComparisonFailed();
}

export function diffCommand(): Command {
  return command(
    'diff',
    'Say whether two plans differ, and what changed per rank and expert. Exit 1 if they do.',
  )
    .argument('<a>', 'a plan file')
    .argument('<b>', 'a plan file')
    .option('--json', 'one JSON object')
    .action(diff);
}
