import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it } from 'vitest';
import { fromSteady } from '../../../executor/native/clock.ts';
import { StepClock } from '../../../executor/training/clock.ts';
import { ExpertLayer } from '../../../executor/training/layer.ts';
import { LAYER_STAGES, STEP_STAGES } from '../../../executor/training/stages.ts';
import { planOf, prepare } from '../../support/buffers.ts';

it('the steady clock is read on the clock of performance.now()', () => {
  const before = performance.now();
  const steady = fromSteady(Number(process.hrtime.bigint()));
  const after = performance.now();
  expect(steady).toBeGreaterThanOrEqual(before - 0.5);
  expect(steady).toBeLessThanOrEqual(after + 0.5);
});

it('a step clock adds up stages until they are taken, of work that fails, too', async () => {
  const clock = new StepClock();
  expect(Object.values(clock.times)).toEqual(STEP_STAGES.map(() => 0));
  expect(await clock.time('plan', () => 7)).toBe(7);
  await clock.time('experts', () => sleep(5));
  await expect(clock.time('gate', () => Promise.reject(new Error('no')))).rejects.toThrow('no');
  clock.add('gate', 3);
  clock.add('gate', 4);
  const times = clock.take();
  expect(times.experts).toBeGreaterThan(4e6);
  expect(times.gate).toBeGreaterThanOrEqual(7);
  expect([times.prepare, times.dispatch]).toEqual([0, 0]);
  expect(Object.values(clock.times)).toEqual(STEP_STAGES.map(() => 0));
});

it('layers add their exchanges to the clock that they share', async () => {
  const clock = new StepClock();
  const one = () => [new Float32Array(1)];
  let nanoseconds = 0;
  for (let layer = 0; layer < 2; layer++) {
    const exchange = await prepare(await planOf([[[0]]], 1, { experts: 1 }));
    const each = new ExpertLayer(exchange, { hidden: 1, dtype: 'f32', clock });
    nanoseconds += (await each.dispatch({ tokens: one(), rows: one() })).nanoseconds;
    await each.combine({ rows: one(), tokens: one() });
    expect(each.times.dispatch).toBeGreaterThan(0);
  }
  const times = clock.take();
  expect(times.dispatch).toBe(nanoseconds);
  expect(times.combine).toBeGreaterThan(0);
  expect(LAYER_STAGES.every((stage) => STEP_STAGES.includes(stage))).toBe(true);
});
