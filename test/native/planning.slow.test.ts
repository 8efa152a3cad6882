// More of the random routings of planning.test.ts.

import { expect, it } from 'vitest';
import { loadPlanner } from '../../planner/node.ts';
import { describeNative } from '../support/addon.ts';
import { planDifferences, randomAutoPlan, randomPlan } from '../support/randomPlans.ts';

const FIRST = 1000;
const CASES = 20_000;

describeNative('native planning', () => {
  it.each([
    ['given strategies', randomPlan],
    ['strategy auto', randomAutoPlan],
  ])(
    `makes the bytes of the Wasm planner for ${CASES} more random routings with %s`,
    async (_, made) => {
      const wasm = await loadPlanner();
      for (let number = FIRST; number < FIRST + CASES; number++) {
        const subject = made(number);
        const found = planDifferences(wasm, subject);
        expect(found, `case ${number}: ${JSON.stringify(subject.options)}`).toEqual([]);
      }
    },
    300_000,
  );
});
