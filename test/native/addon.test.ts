// executor/native/addon.ts is the one file that types the addon: what it says is compared with the native side.

import { expect, it } from 'vitest';
import { ADDON_SIGNATURES } from '../../executor/native/addon.ts';
import { addon, describeNative } from '../support/addon.ts';

describeNative('the typing of the addon', () => {
  it('names what the native side names, with the same numbers of arguments', () => {
    expect(addon.signatures).toEqual(ADDON_SIGNATURES);
  });

  it('names every export and every member of every class, and no other', () => {
    const { functions, rows, cudaRows, ...classes } = ADDON_SIGNATURES;
    const names = [classes, functions, rows, cudaRows].flatMap((table) => Object.keys(table));
    const exports = ['version', 'signatures', ...names];
    expect(Object.keys(addon).sort()).toEqual(exports.sort());
    for (const [name, members] of Object.entries(classes)) {
      const type = addon[name as keyof typeof classes] as { prototype: object };
      expect(Object.getOwnPropertyNames(type.prototype).sort(), name).toEqual(Object.keys(members).sort());
    }
  });

  it('tells properties from methods', () => {
    for (const [name, members] of Object.entries(ADDON_SIGNATURES)) {
      if (['functions', 'rows', 'cudaRows'].includes(name)) continue;
      const { prototype } = addon[name as 'Context'] as unknown as { prototype: object };
      for (const [member, arity] of Object.entries(members)) {
        const { get } = Object.getOwnPropertyDescriptor(prototype, member)!;
        expect(get === undefined, `${name}.${member}`).toBe(arity !== null);
      }
    }
  });

  it('has the version of the package', async () => {
    const { default: manifest } = await import('../../package.json', { with: { type: 'json' } });
    expect(addon.version).toBe(manifest.version);
  });
});
