// `fusco completion SHELL`: what the scripts offer, in the shells that this machine has.

import { execFileSync } from 'node:child_process';
import { describe, expect, it } from 'vitest';
import { expectRefusal, fusco, save, useTemporaryDirectory } from '../../support/cli.ts';

useTemporaryDirectory();

function has(shell: string): boolean {
  try {
    execFileSync(shell, ['-c', 'true']);
    return true;
  } catch {
    return false;
  }
}

/** What is offered for the last of these words. */
type Offer = (...words: string[]) => Promise<string[]>;

const inBash: Offer = async (...words) => {
  save('fusco.bash', (await fusco('completion', 'bash')).stdout);
  const script = `source fusco.bash; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _fusco; echo "\${COMPREPLY[*]}"`;
  const out = execFileSync('bash', ['-c', script, 'bash', 'fusco', ...words], { encoding: 'utf8' });
  return out.trimEnd().split(' ').sort();
};

const inFish: Offer = async (...words) => {
  save('fusco.fish', (await fusco('completion', 'fish')).stdout);
  const line = ['fusco', ...words].join(' ');
  const out = execFileSync('fish', ['-c', `source fusco.fish; complete -C "${line}"`], { encoding: 'utf8' });
  const offered = out.trimEnd().split('\n');
  return offered.map((text) => text.split('\t')[0]!).sort();
};

describe.each([
  ['bash', inBash],
  ['fish', inFish],
] as const)('%s', (shell, offer) => {
  it.skipIf(!has(shell))('completes commands, their options, and values of options', async () => {
    expect(await offer('pl')).toEqual(expect.arrayContaining(['plan', 'placement']));
    expect(await offer('placement', 'p')).toEqual(['propose']);
    expect(await offer('placement', 'propose', '--ta')).toEqual(['--target']);
    expect(await offer('plan', 'r.npy', '--str')).toEqual(['--strategy', '--stream']);
    expect(await offer('plan', '--strategy', '')).toEqual(['auto', 'flat', 'hier']);
    expect(await offer('bench', 'plan', '--g')).toEqual(['--goals']);
  });
});

it.skipIf(!has('bash'))('bash completes values of an argument', async () => {
  expect(await inBash('completion', '')).toEqual(['bash', 'fish', 'zsh']);
});

it('zsh takes the function of bash', async () => {
  const [bash, zsh] = [await fusco('completion', 'bash'), await fusco('completion', 'zsh')];
  expect(zsh.stdout.endsWith(bash.stdout)).toBe(true);
  expect(zsh.stdout).toMatch(/^autoload .*bashcompinit/);
});

it('refuses other shells', async () => {
  expectRefusal(await fusco('completion', 'tcsh'), 'E_USAGE', /bash, zsh, fish/);
});
