// Inputs that fuzzing once found, and inputs that reached new code, are read again: refused, or read correctly.

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { isRefusal, targetsOf } from './targets.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const targets = targetsOf(root);

/** Inputs of one of the folders, by target. */
function stored(kind: 'corpus' | 'findings'): [target: string, name: string][] {
  return targets.flatMap(({ name }) => {
    const place = join(root, 'test/fuzz', kind, name);
    return existsSync(place) ? readdirSync(place).map((file): [string, string] => [name, file]) : [];
  });
}

describe('stored inputs', () => {
  it('exist', () => {
    expect(stored('findings').length).toBeGreaterThan(8);
    expect(stored('corpus').length).toBeGreaterThan(50);
  });

  it.each([
    ...stored('findings').map((found) => ['findings', ...found] as const),
    ...stored('corpus').map((kept) => ['corpus', ...kept] as const),
  ])('%s of %s: %s is refused or read correctly', async (kind, name, file) => {
    const target = targets.find((candidate) => candidate.name === name)!;
    const bytes = new Uint8Array(readFileSync(join(root, 'test/fuzz', kind, name, file)));
    try {
      await target.run(bytes);
    } catch (error) {
      if (!isRefusal(error)) throw error;
    }
  });
});
