import { describe, expect, it } from 'vitest';
import { resolveSettings } from '../../../../executor/backends/nccl/settings.ts';

const refusal = (run: () => unknown) => {
  try {
    run();
  } catch (error) {
    return error;
  }
  throw new Error('nothing was refused');
};

describe('settings of a group over processes', () => {
  it('have defaults', () => {
    const defaults = { stepBytes: 33_554_432, maxCtas: 0, stats: false };
    expect(resolveSettings({}, {})).toEqual(defaults);
    expect(resolveSettings({}, { FUSCO_STEP_BYTES: '' })).toEqual(defaults);
  });

  it('come from the environment, and from options before it', () => {
    expect(resolveSettings({}, { FUSCO_STEP_BYTES: '4096' }).stepBytes).toBe(4096);
    expect(resolveSettings({ stepBytes: 1 }, { FUSCO_STEP_BYTES: 'abc' }).stepBytes).toBe(1);
    expect(resolveSettings({ stepBytes: 2 ** 40, maxCtas: 64 }, {})).toEqual({
      stepBytes: 1_099_511_627_776,
      maxCtas: 64,
      stats: false,
    });
  });

  it('have statistics where FUSCO_STATS is anything but empty or 0, unless the option says otherwise', () => {
    const stats = (FUSCO_STATS: string, option?: boolean) =>
      resolveSettings(option === undefined ? {} : { stats: option }, { FUSCO_STATS }).stats;
    expect([stats('1'), stats('yes'), stats('0'), stats('')]).toEqual([true, true, false, false]);
    expect([stats('1', false), stats('0', true)]).toEqual([false, true]);
  });

  it.each([
    ['abc', '"abc"'],
    ['32MiB', '"32MiB"'],
    ['-1', '"-1"'],
    ['1.5', '"1.5"'],
    ['0x10', '"0x10"'],
    ['0', '0'],
    ['1099511627777', '1099511627777'],
  ])('refuse FUSCO_STEP_BYTES=%s by its name and what it holds', (FUSCO_STEP_BYTES, shown) => {
    expect(refusal(() => resolveSettings({}, { FUSCO_STEP_BYTES }))).toMatchObject({
      code: 'E_OPTION',
      message: `FUSCO_STEP_BYTES is ${shown}; it must be an integer from 1 to 1099511627776`,
    });
  });

  it.each([
    [{ stepBytes: 0 }, 'stepBytes is 0; it must be an integer from 1 to 1099511627776'],
    [{ stepBytes: Number.NaN }, 'stepBytes is NaN; it must be an integer from 1 to 1099511627776'],
    [{ maxCtas: 65 }, 'maxCtas is 65; it must be an integer from 0 to 64'],
    [{ maxCtas: -1 }, 'maxCtas is -1; it must be an integer from 0 to 64'],
    [{ maxCtas: 'all' as unknown as number }, 'maxCtas is "all"; it must be an integer from 0 to 64'],
  ])('refuse %o', (options, message) => {
    expect(refusal(() => resolveSettings(options, {}))).toMatchObject({ code: 'E_OPTION', message });
  });
});
