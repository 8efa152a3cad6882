import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { LinePrefixer, LONGEST_LINE } from '../../../tools/launch/prefixedLines.ts';

/** Everything that comes out for chunks cut at these places. */
function prefixed(text: Buffer, cuts: readonly number[]): string {
  const lines = new LinePrefixer('[1] ');
  const places = [0, ...cuts.map((cut) => cut % (text.length + 1)).sort((a, b) => a - b), text.length];
  const pieces = places.slice(1).map((end, i) => lines.push(text.subarray(places[i], end)));
  return Buffer.concat([...pieces, lines.finish()]).toString();
}

describe('lines of a rank', () => {
  it('are the same wherever the stream was cut', () => {
    const texts = fc.array(fc.constantFrom('', 'a', 'loss 0.5', 'ü', '\r'), { maxLength: 12 });
    fc.assert(
      fc.property(texts, fc.boolean(), fc.array(fc.nat(200), { maxLength: 8 }), (lines, isOpen, cuts) => {
        const expected = lines.map((line) => `[1] ${line}\n`).join('');
        const text = lines.map((line) => `${line}\n`).join('') + (isOpen ? 'end' : '');
        expect(prefixed(Buffer.from(text), cuts)).toBe(expected + (isOpen ? '[1] end\n' : ''));
      }),
      { seed: 7, numRuns: 300 },
    );
  });

  it('come out whole, never before they have ended', () => {
    const lines = new LinePrefixer('> ');
    expect(lines.push(Buffer.from('half')).toString()).toBe('');
    expect(lines.push(Buffer.from(' a line\nnext')).toString()).toBe('> half a line\n');
    expect(lines.finish().toString()).toBe('> next\n');
    expect(lines.finish().toString()).toBe('');
  });

  it('are cut where they never end, so that memory stays bounded', () => {
    const lines = new LinePrefixer('> ');
    const out = lines.push(Buffer.alloc(LONGEST_LINE + 3, 'x'));
    expect(out.toString()).toBe(`> ${'x'.repeat(LONGEST_LINE)}\n`);
    expect(lines.finish().toString()).toBe('> xxx\n');
  });
});
