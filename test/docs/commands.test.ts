// README.md's table of commands names the commands of the program, all of them and no others.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { fusco } from '../support/cli.ts';
import { ROOT } from '../support/programs.ts';

it('README.md lists every command of the program, and those of bench and placement', async () => {
  const rows = readFileSync(join(ROOT, 'README.md'), 'utf8').matchAll(/^\| `fusco (\w+) ?([^`]*)`/gm);
  const listed = new Map([...rows].map(([, name, rest]) => [name!, rest!]));
  const commandsOf = async (...args: string[]) => {
    const { stdout } = await fusco(...args, '--help');
    const names = [...stdout.slice(stdout.indexOf('Commands:')).matchAll(/^ {2}(\w+)/gm)].map(
      (match) => match[1]!,
    );
    return names.filter((name) => name !== 'help').sort();
  };
  expect([...listed.keys()].sort()).toEqual(await commandsOf());
  for (const parent of ['bench', 'placement']) {
    const named = listed.get(parent)!.split('\\|').sort();
    expect(named, parent).toEqual(await commandsOf(parent));
  }
});
