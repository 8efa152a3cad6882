// What the viewer takes for a result of `fusco simulate --placement`.

import { describe, expect, it } from 'vitest';
import { whatIfPanels } from '../../../tools/report/whatIfPanels.ts';
import { isJsonFile, parseWhatIf } from '../../../tools/viewer/whatIfFile.ts';

const fileOf = (value: unknown) => ({
  name: 'result.json',
  bytes: new TextEncoder().encode(typeof value === 'string' ? value : JSON.stringify(value)),
});

const step = { rankMaxOverMean: 1.5, intraNodeBytes: 2048, interNodeBytes: 1024, us: 12 };
const move = { instances: 3, bytes: 300, us: 5, breakEvenTokens: null };
const sound = {
  formatVersion: 1,
  steps: [4, 5],
  tokens: [10, 10],
  placements: [
    { name: 'a', replicas: 0, steps: [step, step], overall: step },
    { name: 'b', replicas: 2, steps: [step, { ...step, us: 9 }], overall: step, move },
  ],
};

describe('parseWhatIf', () => {
  it('gives what the panels show', () => {
    const panels = whatIfPanels(parseWhatIf(fileOf(sound)));
    expect(panels.map(({ id }) => id)).toEqual(['overall', 'imbalance', 'between-nodes', 'time']);
    const [overall, , , time] = panels.map(({ cells }) => cells[0]!.text);
    expect(overall).toContain('>never</td>');
    expect(time).toContain('aria-label="step 5, b: 9.00 µs"');
  });

  it('says what is wrong with JSON that cannot be read', () => {
    expect(() => parseWhatIf(fileOf('{'))).toThrow(
      expect.objectContaining({ code: 'E_FORMAT', message: expect.stringContaining('it is not JSON') }),
    );
  });

  it.each<[string, unknown]>([
    ['other JSON', { logical_count: [[1]] }],
    ['no placements', { ...sound, placements: [] }],
    ['fewer figures than steps', { ...sound, steps: [4, 5, 6] }],
    [
      'a negative figure',
      { ...sound, placements: [{ ...sound.placements[0], overall: { ...step, us: -1 } }] },
    ],
    ['text for a number', { ...sound, placements: [{ ...sound.placements[0], steps: ['1', '2'] }] }],
    [
      'a bad move',
      { ...sound, placements: [{ ...sound.placements[1], move: { ...move, breakEvenTokens: 'x' } }] },
    ],
  ])('refuses %s', (_, value) => {
    expect(() => parseWhatIf(fileOf(value))).toThrow(
      expect.objectContaining({ code: 'E_FORMAT', message: expect.stringContaining('fusco simulate') }),
    );
  });
});

it('only JSON objects are taken for one', () => {
  expect(isJsonFile(fileOf(sound))).toBe(true);
  expect(isJsonFile(fileOf(' \n{}'))).toBe(true);
  expect(isJsonFile({ name: 'r.npy', bytes: Uint8Array.of(0x93, 0x4e) })).toBe(false);
});
