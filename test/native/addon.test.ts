// executor/native/types.ts and benchAddon.ts type the addons: their sources are compared with the native side.

import { expect, it } from 'vitest';
import { type Addon, findAddon } from '../../executor/native/addon.ts';
import { findBenchAddon } from '../../executor/native/benchAddon.ts';
import { addon, describeNative } from '../support/addon.ts';
import { interfacesOf, signaturesOf } from './addonTypes.ts';

const types = interfacesOf(new URL('../../executor/native/types.ts', import.meta.url));
const benchTypes = interfacesOf(new URL('../../executor/native/benchAddon.ts', import.meta.url));
const declared = signaturesOf(types, 'Addon');

/** Checks that an addon exports what it says, and nothing else. */
function expectExports(loaded: Addon): void {
  const { functions, ...classes } = loaded.signatures;
  const names = ['version', 'signatures', ...Object.keys(classes), ...Object.keys(functions!)];
  expect(Object.keys(loaded).sort()).toEqual(names.sort());
  for (const [name, members] of Object.entries(classes)) {
    const { prototype } = loaded[name as 'Context'] as unknown as { prototype: object };
    expect(Object.getOwnPropertyNames(prototype).sort(), name).toEqual(Object.keys(members).sort());
    for (const [member, arity] of Object.entries(members)) {
      const { get } = Object.getOwnPropertyDescriptor(prototype, member)!;
      expect(get === undefined, `${name}.${member}`).toBe(arity !== null);
    }
  }
}

describeNative('the typing of the addon', () => {
  it('declares what the native side has, with the same numbers of parameters', () => {
    expect(declared.functions!.cudaGate).toBe(3);
    expect(declared.Plan).toMatchObject({ constructor: 2, closed: null, dispatch: 1, close: 0 });
    expect(declared.NcclPlan!.weightGradient).toBe(4);
    expect(addon.signatures).toEqual(declared);
  });

  it('declares every export and every member of every class', () => {
    expectExports(addon);
  });

  it('has the version of the package', async () => {
    const { default: manifest } = await import('../../package.json', { with: { type: 'json' } });
    expect(addon.version).toBe(manifest.version);
  });
});

describeNative('arguments', () => {
  const refused = (code: string, message: RegExp) =>
    expect.objectContaining({ code, message: expect.stringMatching(message) });

  it.each([
    ['a fraction', 1.5],
    ['NaN', Number.NaN],
    ['a negative number', -1],
    ['more than 32 bits', 2 ** 32],
    ['a BigInt', 1n],
    ['a string', '1'],
  ])('that are whole numbers refuse %s', (_, value) => {
    const wrong = value as number;
    const whole = /must be a whole number from 0 to 4294967295$/;
    expect(() => new addon.Context({ threads: wrong })).toThrow(refused('E_OPTION', whole));
    expect(() => new addon.CudaContext(wrong, undefined)).toThrow(refused('E_OPTION', /^ranks must be/));
    expect(() => new addon.CudaContext(1, [wrong])).toThrow(refused('E_OPTION', /^the device of rank 0/));
    const context = new addon.Context({ threads: 1 });
    const desc = { ranksPerNode: wrong, strategy: 'flat' as const, shards: [] };
    expect(() => new addon.Plan(context, desc)).toThrow(refused('E_OPTION', whole));
    context.close();
  });

  it('that have names refuse others, and say which there are', () => {
    const kernels = 'fast' as 'auto';
    expect(() => new addon.Context({ kernels })).toThrow('kernels must be one of auto, portable');
    const context = new addon.Context({ threads: 1 });
    const desc = { ranksPerNode: 1, strategy: 'ring' as 'flat', shards: [] };
    expect(() => new addon.Plan(context, desc)).toThrow('strategy must be one of flat, hier');
    context.close();
  });

  it('that are handles refuse objects of other classes and closed ones', () => {
    const context = new addon.Context({ threads: 1 });
    const other = () => new addon.CudaEvent(context as never, 0);
    expect(other).toThrow(refused('E_OPTION', /must be an object of class CudaContext$/));
    const desc = { ranksPerNode: 1, strategy: 'flat' as const, shards: [] };
    for (const wrong of [undefined, 7, {}]) {
      const plan = () => new addon.Plan(wrong as never, desc);
      expect(plan).toThrow(refused('E_OPTION', /must be an object of class Context$/));
    }
    context.close();
    const rows = new Uint8Array(0);
    const fp8 = { dtype: 'f32' as const, rows: 0, hidden: 128, values: rows, codes: rows, scales: rows };
    expect(() => addon.fp8Quantize(context, fp8)).toThrow(refused('E_CLOSED', /^the context is closed$/));
  });
});

// Under sanitizers only the published addon is built.
const bench = process.env.FUSCO_SANITIZED_ADDON === undefined ? findBenchAddon().addon : undefined;

describeNative('the addon of the benches', () => {
  it.skipIf(bench === undefined)('has what the published addon has, and what its typing declares', () => {
    const more = signaturesOf(new Map([...types, ...benchTypes]), 'BenchAddon');
    expect(bench!.signatures).toEqual(more);
    expectExports(bench!);
    expect(bench!.signatures).toMatchObject(addon.signatures);
  });

  it.skipIf(bench === undefined)('takes handles of the published addon', () => {
    const context = new addon.Context({ threads: 1 });
    expect(bench!.benchCopy(context, 'memcpy', 4096, 1)).toBeGreaterThan(0);
    const wrong = () => bench!.benchSlots(new Uint16Array(8), Number.NaN, true, 1);
    expect(wrong).toThrow('instanceCount must be a whole number from 0 to 65535');
    context.close();
    expect(() => bench!.benchCopy(context, 'memcpy', 4096, 1)).toThrow('the context is closed');
  });

  it.skipIf(bench === undefined)('is what findAddon() gives once it was asked for', () => {
    expect(findAddon().addon).toBe(bench);
  });
});
