// `fusco/vitest`: importing it gives `expect` the matcher `toMatchPlan`.

import { isAbsolute, relative } from 'node:path';
import { expect, type MatcherState, Snapshots } from 'vitest';
import { planId } from '../../planner/format/digest.ts';
import { nodeSha256 } from '../../planner/node.ts';
import { isVerified, type VerifiedPlan } from '../../planner/plan.ts';
import { goldenSummary } from '../golden/goldenPlans.ts';

/** The contents of a snapshot: the id, which detects any change, and figures, which help to assess a change. */
export interface PlanSnapshot {
  readonly planId: string;
  readonly summary: Readonly<Record<string, number | string>>;
}

/** The snapshot of a plan. */
export async function snapshotOf(plan: VerifiedPlan): Promise<PlanSnapshot> {
  // A predicted time comes from the model, which may change between versions.
  const { predicted: _, ...summary } = goldenSummary(plan);
  return { planId: await planId(plan, nodeSha256), summary };
}

function updateHint({ testPath }: MatcherState): string {
  const file = testPath === undefined ? '' : relative(process.cwd(), testPath);
  return `If the change is meant, run: npx vitest run${file === '' || isAbsolute(file) ? '' : ` ${file}`} -u`;
}

async function toMatchPlan(this: MatcherState, received: unknown, hint?: string) {
  if (typeof received !== 'object' || received === null || !isVerified(received as VerifiedPlan)) {
    return {
      pass: false,
      message: () => 'toMatchPlan takes a plan that was made here or verified by verifyPlan',
    };
  }
  const snapshot = await snapshotOf(received as VerifiedPlan);
  const result = Snapshots.toMatchSnapshot.call(this, snapshot, hint === undefined ? 'plan' : `plan ${hint}`);
  return { ...result, message: () => `${result.message()}\n\n${updateHint(this)}` };
}

expect.extend({ toMatchPlan });

declare module 'vitest' {
  // biome-ignore lint/suspicious/noExplicitAny: the type parameter must be the one that vitest declares
  interface Matchers<T = any> {
    /**
     * Compares a plan with the snapshot next to the test file: its id, strategy and figures. Await it. Like vitest's own
     * snapshots it is written on the first run, updated by `-u`, listed as obsolete, and never written if CI is set.
     *
     * @param hint distinguishes several plans of one test
     */
    toMatchPlan(hint?: string): Promise<T>;
  }
}
