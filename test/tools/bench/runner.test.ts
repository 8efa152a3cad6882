import { expect, it } from 'vitest';
import { measure } from '../../../tools/bench/runner.ts';

it('runs the candidates in turn and gives the median of each one without the warm-up', async () => {
  const order: string[] = [];
  const times = { a: [900, 1, 3, 2], b: [900, 10, 10, 40] };
  const candidate = (name: 'a' | 'b', bytes: number) => ({
    bytes,
    run: () => {
      order.push(name);
      return times[name].shift()!;
    },
  });
  const rows = await measure(
    { a: candidate('a', 4), b: candidate('b', 100), none: undefined },
    { rounds: 3 },
  );
  expect(order.join('')).toBe('abababab');
  expect(rows).toEqual({ a: { ns: 2, ms: 2e-6, rate: 2 }, b: { ns: 10, ms: 1e-5, rate: 10 } });
});

it('checks a result after the first run, and summarizes as it is told', async () => {
  const events: string[] = [];
  const work = {
    run: async () => {
      events.push('run');
      return events.length;
    },
    check: () => {
      events.push('check');
    },
  };
  const { row } = await measure(
    { row: work },
    { rounds: 2, warmUps: 2, summarize: async (times) => Math.max(...times) },
  );
  expect(events).toEqual(['run', 'check', 'run', 'run', 'run']);
  expect(row.ns).toBe(5);
});

it('passes on what a check throws', async () => {
  const check = () => {
    throw new Error('other bytes');
  };
  await expect(measure({ row: { run: () => 1, check } }, { rounds: 1 })).rejects.toThrow('other bytes');
});
