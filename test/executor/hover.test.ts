// What an editor shows on the names that a user types first: every field of a routing table, a call and a payload.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { ROOT } from '../support/programs.ts';

/** Fields of an interface, each with whether a comment stands in front of it. */
function fieldsOf(file: string, name: string): [field: string, isDocumented: boolean][] {
  const text = readFileSync(join(ROOT, file), 'utf8');
  const body = new RegExp(`^export interface ${name}\\b[^{]*\\{\\n(.*?)^\\}`, 'ms').exec(text)![1]!;
  return [...body.matchAll(/(\*\/\n)?^ {2}(?:readonly )?(\w+)\??:/gm)].map((match) => [
    match[2]!,
    match[1] !== undefined,
  ]);
}

it.each([
  ['planner/routing.ts', 'RoutingTable'],
  ['planner/spec.ts', 'PlanOptions'],
  ['executor/backends/types.ts', 'Payload'],
  ['executor/backends/types.ts', 'DispatchCall'],
  ['executor/backends/types.ts', 'CombineCall'],
  ['executor/backends/types.ts', 'WeightGradientCall'],
  ['executor/backends/types.ts', 'Fp8Call'],
  ['executor/backends/types.ts', 'GateCall'],
  ['executor/backends/types.ts', 'GateBackwardCall'],
  ['tools/files/index.ts', 'ReadRoutingOptions'],
])('%s: every field of %s says what it is', (file, name) => {
  const fields = fieldsOf(file, name);
  expect(fields.length).toBeGreaterThan(1);
  expect(fields.filter(([, isDocumented]) => !isDocumented).map(([field]) => field)).toEqual([]);
});
