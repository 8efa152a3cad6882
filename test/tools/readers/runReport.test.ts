// Which files are accepted as the output of `fusco run --json`.

import { expect, it } from 'vitest';
import { isRunReport, readRunReport } from '../../../tools/readers/runReport.ts';
import { save, useTemporaryDirectory } from '../../support/cli.ts';

useTemporaryDirectory();

const PLAN = '0123456789abcdef'.repeat(4);
const RUN = { planId: PLAN, backend: 'host', dispatch: { nanoseconds: 5 }, combine: { nanoseconds: 0 } };

it('a report has a plan, a backend and two durations; other fields are ignored', async () => {
  save('run.json', JSON.stringify({ formatVersion: 1, out: 'o', ...RUN }));
  expect(await readRunReport('run.json', PLAN)).toMatchObject(RUN);
});

it.each<[string, object]>([
  ['no plan', { ...RUN, planId: undefined }],
  ['an invalid id', { ...RUN, planId: 'x'.repeat(64) }],
  ['no combine', { ...RUN, combine: undefined }],
  ['a negative duration', { ...RUN, combine: { nanoseconds: -1 } }],
  ['an infinite duration', { ...RUN, combine: { nanoseconds: Number.POSITIVE_INFINITY } }],
  ['a text as a duration', { ...RUN, combine: { nanoseconds: '5' } }],
  ['a backend with a long name', { ...RUN, backend: 'b'.repeat(65) }],
])('%s is refused', (_, value) => {
  expect(isRunReport(value)).toBe(false);
});

it('other files are refused with one line', async () => {
  save('numbers.json', '[1, 2]');
  await expect(readRunReport('numbers.json', PLAN)).rejects.toMatchObject({ code: 'E_FORMAT' });
  save('text.json', 'dispatch 5 ms');
  await expect(readRunReport('text.json', PLAN)).rejects.toMatchObject({ code: 'E_FORMAT' });
  save('run.json', JSON.stringify(RUN));
  await expect(readRunReport('run.json', 'f'.repeat(64))).rejects.toMatchObject({ code: 'E_OPTION' });
  await expect(readRunReport('none.json', PLAN)).rejects.toMatchObject({ code: 'E_FILE_NOT_FOUND' });
});
