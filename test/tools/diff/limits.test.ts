import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import type { PlanOptions } from '../../../planner/spec.ts';
import { machineFor } from '../../../tools/diff/diffPlans.ts';
import { checkLimits, type DiffLevel, LEVELS, parseLimits } from '../../../tools/diff/limits.ts';
import { METRICS, type MetricDelta, measure, relativeChange } from '../../../tools/diff/metrics.ts';
import { planOf } from '../../support/buffers.ts';

/** Whether `expression` is broken where `busiestNicBytes` goes from `from` to `to`. */
function breaks(expression: string, from: number, to: number, level: DiffLevel = 'result'): boolean {
  const metrics: MetricDelta[] = METRICS.map(({ name, unit }) => ({
    name,
    unit,
    from,
    to,
    change: relativeChange(from, to),
  }));
  return parseLimits(expression).some((limit) => limit.breaks(level, metrics));
}

describe('--fail-on', () => {
  it.each([
    ['busiestNicBytes>+2%', 100, 102, false],
    ['busiestNicBytes>+2%', 100, 103, true],
    ['busiestNicBytes>=+2%', 100, 102, true],
    ['busiestNicBytes<-2%', 100, 97, true],
    ['busiestNicBytes<-2%', 100, 98, false],
    ['busiestNicBytes>+50%', 0, 0, false],
    ['busiestNicBytes>+50%', 0, 1, true],
    ['rows>+10', 100, 110, false],
    ['rows>+10', 100, 111, true],
    ['rows<-10', 100, 89, true],
    ['busiestNicBytes>+1KiB', 0, 1024, false],
    ['busiestNicBytes>+1KiB', 0, 1025, true],
    ['imbalance>1.8', 9, 1.8, false],
    ['imbalance>1.8', 0, 1.81, true],
    ['imbalance<=1.5', 0, 1.5, true],
  ])('%s from %d to %d: %s', (expression, from, to, expected) => {
    expect(breaks(expression, from, to)).toBe(expected);
  });

  it('takes several limits, of which one is enough', () => {
    expect(breaks('rows>+5%, imbalance>100', 10, 20)).toBe(true);
    expect(breaks('rows>+200%,imbalance>100', 10, 20)).toBe(false);
  });

  it('orders levels from identical to result', () => {
    for (const [i, wanted] of LEVELS.entries()) {
      for (const [j, level] of LEVELS.entries()) {
        expect(breaks(`level>=${wanted}`, 0, 0, level)).toBe(j >= i);
        if (wanted !== 'result') expect(breaks(`level>${wanted}`, 0, 0, level)).toBe(j > i);
      }
    }
  });

  it.each([
    ['', 'METRIC>BOUND'],
    ['busiestNicBytes', 'METRIC>BOUND'],
    ['busiestNicBytes=3', 'METRIC>BOUND'],
    ['bytes>3', 'bytes is not one of level, predicted, tokens'],
    ['rows>2%', 'write +2% or -2%'],
    ['rows>+x', 'not a number'],
    ['rows>+1e9', 'not a number'],
    ['rows>+2%,', 'METRIC>BOUND'],
    ['level>=bad', 'level bad is not one of identical'],
    ['level>result', 'no level is > result'],
    ['level<identical', 'no level is < identical'],
    ['rows<0', 'no figure is < 0'],
    ['rows<-100%', 'nothing can break it'],
    ['rows<=-101%', 'nothing can break it'],
  ])('refuses %j', (expression, text) => {
    expect(() => parseLimits(expression)).toThrow(expect.objectContaining({ code: 'E_USAGE' }));
    expect(() => parseLimits(expression)).toThrow(text);
  });
});

describe('limits on what neither plan has', () => {
  const plan = (options: Partial<PlanOptions>) =>
    planOf([[[0, 1]], [[2, 3]], [[0, 2]], [[1, 3]]], 2, { experts: 4, ...options });
  const check = async (expression: string, a: Partial<PlanOptions>, b: Partial<PlanOptions> = a) => {
    const plans = [await plan(a), await plan(b)];
    const topology = machineFor(plans[0]!, plans[1]!);
    const measured = plans.map((made) => measure(made, topology));
    checkLimits(parseLimits(expression), measured);
  };

  it.each([
    ['busiestNicBytes>+2%', {}, 'neither plan has several nodes'],
    ['interNodeBytes>10', {}, 'neither plan has several nodes'],
    // One rank per node means once per rank: the machine joins them.
    ['busiestNicBytes>+2%', { ranksPerNode: 1 }, 'neither plan has several nodes'],
    ['droppedEntries>0', {}, 'neither plan has a capacity'],
    ['paddingRows>+10%', {}, 'neither plan has padded blocks'],
    ['forwardedRows>+10%', { ranksPerNode: 2 }, 'neither plan has forwarding'],
  ] as const)('%s is refused', async (expression, options, text) => {
    await expect(check(expression, options)).rejects.toThrow(text);
  });

  it('one plan that has it is enough', async () => {
    await check('busiestNicBytes>+2%', { ranksPerNode: 2 });
    await check('droppedEntries>0', { capacity: 1 }, {});
    await check('predicted>+2%,imbalance>1.5,level>=result', {});
  });
});

describe('docs/diff.md', () => {
  it('lists every metric with its unit and meaning, in order', () => {
    const rows = readFileSync(new URL('../../../docs/diff.md', import.meta.url), 'utf8')
      .split('\n')
      .filter((line) => /^\| `[a-zA-Z]+` \| [a-z]+ \| .+ \|$/.test(line))
      .map((line) =>
        line
          .split('|')
          .slice(1, 4)
          .map((cell) => cell.trim()),
      );
    expect(rows).toEqual(METRICS.map(({ name, unit, meaning }) => [`\`${name}\``, unit, meaning]));
  });
});
