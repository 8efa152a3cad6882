// Headers of format 1.1: keys that are omitted at their default, and `extra`, which is kept and ignored.

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { createGroup } from '../../executor/index.ts';
import { decodePlan, encodePlan, planId, verifyPlan } from '../../planner/index.ts';
import { loadPlanner, nodeSha256 } from '../../planner/node.ts';
import type { Extra } from '../../planner/plan.ts';
import { optionsOf } from '../../planner/spec.ts';
import { honestFile, honestHierFile, refusalOf } from '../support/honest.ts';
import { type FileParts, openFile, pack, sealFile } from '../support/planFile.ts';
import { toTables } from '../support/workloads.ts';

const sorted = (map: object) => Object.fromEntries(Object.entries(map).sort(([a], [b]) => (a < b ? -1 : 1)));

/** A file of format 1.1 with these core keys. */
function withCore(file: FileParts, keys: object): Uint8Array {
  return sealFile({ ...file, version: [1, 1], core: sorted({ ...file.core, ...keys }) });
}

/** A file of format 1.1 with this value as `extra`. */
function withExtra(file: FileParts, extra: unknown): Uint8Array {
  return sealFile({ ...file, version: [1, 1], rest: { ...file.rest, extra } });
}

/** Two ranks, of which both host expert 0. */
async function replicatedFile(): Promise<FileParts> {
  const routing = [
    [[0], [1]],
    [[0], [2]],
  ];
  const options = { ranks: 2, experts: 3, placement: [[0, 1], 0, 1] };
  const plan = (await loadPlanner()).planAll(toTables(routing, 1), options);
  return openFile((await encodePlan(plan, nodeSha256)).bytes);
}

/** The rule of the readers of format 1.0: their own major version, and no minor version above 0. */
const readable10 = (bytes: Uint8Array) => openFile(bytes).version.join('.') === '1.0';

describe('core keys of format 1.1', () => {
  it('are not written at their default: such a plan stays one of format 1.0', async () => {
    for (const file of [await honestFile(), await honestHierFile(), await replicatedFile()]) {
      expect(file.version).toEqual([1, 0]);
      for (const key of ['sum', 'replicas', 'combineDtype']) expect(file.core).not.toHaveProperty(key);
    }
  });

  it.each([
    ['sum', 'token', honestHierFile],
    ['replicas', 'local', replicatedFile],
    ['combineDtype', 'f32', honestFile],
    ['combineDtype', 'f16', replicatedFile],
  ] as const)(
    '%s = %s is read, shown by its spec, part of the plan id, and written again',
    async (key, value, make) => {
      const file = await make();
      const bytes = withCore(file, { [key]: value });
      const decoded = await decodePlan(bytes, nodeSha256);
      expect(decoded.version).toEqual([1, 1]);
      expect(decoded.plan.spec[key]).toBe(value);
      expect(verifyPlan(decoded.plan)).toBe(decoded.plan);
      expect(Buffer.compare((await encodePlan(decoded.plan, nodeSha256)).bytes, bytes)).toBe(0);
      const plain = await decodePlan(sealFile(file), nodeSha256);
      expect(decoded.planId).not.toBe(plain.planId);
      expect(readable10(bytes)).toBe(false);
      expect(readable10(sealFile(file))).toBe(true);
    },
  );

  it('combineDtype of fp8 rows is bf16 unless the header says otherwise', async () => {
    const file = await honestFile();
    const core = { ...file.core, dtype: 'fp8' };
    const { plan } = await decodePlan(sealFile({ ...file, core }), nodeSha256);
    expect(plan.spec.combineDtype).toBe('bf16');
    const asked = await decodePlan(withCore({ ...file, core }, { combineDtype: 'f32' }), nodeSha256);
    expect(asked.plan.spec.combineDtype).toBe('f32');
    const spelled = await refusalOf(withCore({ ...file, core }, { combineDtype: 'bf16' }));
    expect(spelled.code).toBe('E_PLAN_CANONICAL');
  });

  it.each([
    ['sum at its default', { sum: 'node' }, honestHierFile, 'E_PLAN_CANONICAL'],
    ['sum in a flat plan', { sum: 'token' }, honestFile, 'E_PLAN_CANONICAL'],
    ['an unknown sum', { sum: 'rank' }, honestHierFile, 'E_PLAN_HEADER'],
    ['replicas at their default', { replicas: 'quota-1' }, replicatedFile, 'E_PLAN_CANONICAL'],
    ['replicas without replicas', { replicas: 'local' }, honestFile, 'E_PLAN_CANONICAL'],
    ['an unknown rule of replicas', { replicas: 'quota-2' }, replicatedFile, 'E_PLAN_HEADER'],
    ['combineDtype at its default', { combineDtype: 'bf16' }, honestFile, 'E_PLAN_CANONICAL'],
    ['an unknown combineDtype', { combineDtype: 'int4' }, honestFile, 'E_PLAN_HEADER'],
    ['a combineDtype that is a number', { combineDtype: 2 }, honestFile, 'E_PLAN_HEADER'],
    ['a key that no version has', { slots: 1 }, honestFile, 'E_PLAN_HEADER'],
  ] as const)('%s: refused', async (_, keys, make, code) => {
    const error = await refusalOf(withCore(await make(), keys));
    expect(error.code).toBe(code);
    if ('slots' in keys) expect(error.message).toMatch(/slots.*update fusco/);
  });

  it('a newer minor version with keys that are unknown here is refused and says what to do', async () => {
    const file = await honestFile();
    const error = await refusalOf(
      sealFile({ ...file, version: [1, 2], core: sorted({ ...file.core, slots: 1 }) }),
    );
    expect(error.code).toBe('E_PLAN_VERSION');
    expect(error.message).toMatch(/format 1\.2; .*1\.0 to 1\.1: update fusco/);
  });

  it.each([
    ['1.1 for a header of 1.0', [1, 1], {}],
    ['1.0 for a header of 1.1', [1, 0], { combineDtype: 'f32' }],
  ] as const)('%s: E_PLAN_CANONICAL', async (_, version, keys) => {
    const file = await honestFile();
    const core = sorted({ ...file.core, ...keys });
    const error = await refusalOf(sealFile({ ...file, version: [...version], core }));
    expect(`${error.code} ${error.details.path}`).toBe('E_PLAN_CANONICAL /version');
  });

  it('sum = token is neither executed nor planned again', async () => {
    const { plan } = await decodePlan(withCore(await honestHierFile(), { sum: 'token' }), nodeSha256);
    const group = await createGroup({ backend: 'reference', ranks: plan.spec.ranks });
    await expect(group.prepare(verifyPlan(plan))).rejects.toMatchObject({
      code: 'E_BACKEND',
      message: expect.stringMatching("sum 'token': update fusco, or plan without it"),
    });
    await group.close();
    expect(() => optionsOf(plan.spec)).toThrow('update fusco');
  });
});

describe('extra', () => {
  const value: fc.Arbitrary<unknown> = fc.letrec<{ map: object; value: unknown }>((tie) => ({
    value: fc.oneof(
      { depthSize: 'small', maxDepth: 2 },
      fc.nat(2 ** 32 - 1),
      fc.string({ unit: 'grapheme', maxLength: 20 }),
      fc.uint8Array({ maxLength: 255 }),
      tie('map'),
    ),
    map: fc.dictionary(fc.stringMatching(/^[A-Za-z][A-Za-z0-9._-]{0,20}$/), tie('value'), {
      minKeys: 1,
      noNullPrototype: true,
      maxKeys: 4,
    }),
  })).map;
  const deepSorted = (map: object): object =>
    Object.fromEntries(
      Object.entries(sorted(map)).map(([key, item]) => [
        key,
        Object.getPrototypeOf(item) === Object.prototype ? deepSorted(item as object) : item,
      ]),
    );

  it('is kept byte for byte, changes neither plan nor plan id, and raises the minor version', async () => {
    const file = await honestFile();
    const plain = await decodePlan(sealFile(file), nodeSha256);
    await fc.assert(
      fc.asyncProperty(value, async (map) => {
        const bytes = withExtra(file, deepSorted({ z: 1, ...(map as object) }));
        const decoded = await decodePlan(bytes, nodeSha256);
        expect(decoded.version).toEqual([1, 1]);
        expect(decoded.planId).toBe(plain.planId);
        const again = await encodePlan(decoded.plan, nodeSha256);
        expect(Buffer.compare(again.bytes, bytes)).toBe(0);
        expect(again.planId).toBe(plain.planId);
        expect(verifyPlan(decoded.plan).spec).toEqual(plain.plan.spec);
      }),
      { numRuns: 100 },
    );
  });

  it('is written in the order of its keys, and refused by the encoder if a reader would refuse it', async () => {
    const { plan } = await decodePlan(sealFile(await honestFile()), nodeSha256);
    const { bytes } = await encodePlan({ ...plan, extra: { b: 1, a: { d: 'x', c: 2 } } }, nodeSha256);
    expect(JSON.stringify(openFile(bytes).rest.extra)).toBe('{"a":{"c":2,"d":"x"},"b":1}');
    expect(await planId({ ...plan, extra: { a: 1 } }, nodeSha256)).toBe(await planId(plan, nodeSha256));
    for (const extra of [{}, { a: 0.5 }, { a: [1] }, { a: 'x'.repeat(256) }]) {
      await expect(encodePlan({ ...plan, extra: extra as Extra }, nodeSha256)).rejects.toMatchObject({
        code: 'E_PLAN_HEADER',
      });
    }
    const many = Object.fromEntries(Array.from({ length: 5000 }, (_, i) => [`k${i}`, 'x'.repeat(250)]));
    await expect(encodePlan({ ...plan, extra: many }, nodeSha256)).rejects.toMatchObject({ code: 'E_LIMIT' });
  });

  const deep = (levels: number): unknown => (levels === 0 ? 1 : { a: deep(levels - 1) });

  it('holds maps up to four deep', async () => {
    const { plan } = await decodePlan(withExtra(await honestFile(), deep(4)), nodeSha256);
    expect(plan.extra).toEqual(deep(4));
  });

  it.each<[string, string, unknown]>([
    ['no map', 'E_PLAN_HEADER', 1],
    ['text', 'E_PLAN_HEADER', 'x'],
    ['an empty map', 'E_PLAN_HEADER', {}],
    ['an empty map inside', 'E_PLAN_HEADER', { a: {} }],
    ['a list', 'E_PLAN_HEADER', { a: [1] }],
    ['a float', 'E_PLAN_CANONICAL', { a: 0.5 }],
    ['a negative number', 'E_PLAN_CANONICAL', { a: -1 }],
    ['a number of 64 bits', 'E_PLAN_CANONICAL', { a: 2n ** 40n }],
    ['true', 'E_PLAN_CANONICAL', { a: true }],
    ['nil', 'E_PLAN_CANONICAL', { a: null }],
    ['a string of 256 bytes', 'E_PLAN_CANONICAL', { a: 'x'.repeat(256) }],
    ['256 bytes', 'E_PLAN_CANONICAL', { a: new Uint8Array(256) }],
    ['a key that starts with a digit', 'E_PLAN_HEADER', { '1a': 1 }],
    ['a key that is not ASCII', 'E_PLAN_HEADER', { ä: 1 }],
    ['an empty key', 'E_PLAN_HEADER', { '': 1 }],
    ['keys out of order', 'E_PLAN_CANONICAL', { b: 1, a: 1 }],
    ['keys out of order inside', 'E_PLAN_CANONICAL', { a: { b: 1, a: 1 } }],
    ['maps five deep', 'E_PLAN_CANONICAL', deep(5)],
  ])('%s: %s', async (_, code, extra) => {
    const error = await refusalOf(withExtra(await honestFile(), extra));
    expect(error.code).toBe(code);
  });

  it('a key twice: E_PLAN_CANONICAL', async () => {
    const file = await honestFile();
    const header = (honest: object) => {
      const bytes = Buffer.from(pack({ ...honest }));
      const once = Buffer.concat([pack('extra'), Uint8Array.of(0x81), pack('a'), pack(1)]);
      const at = bytes.indexOf(once);
      expect(at).toBeGreaterThan(0);
      const twice = Buffer.concat([
        pack('extra'),
        Uint8Array.of(0x82),
        pack('a'),
        pack(1),
        pack('a'),
        pack(1),
      ]);
      return Buffer.concat([bytes.subarray(0, at), twice, bytes.subarray(at + once.length)]);
    };
    const parts: FileParts = { ...file, version: [1, 1], rest: { ...file.rest, extra: { a: 1 } } };
    expect((await refusalOf(sealFile(parts, { header }))).code).toBe('E_PLAN_CANONICAL');
  });

  it('in a file of format 1.0: E_PLAN_CANONICAL', async () => {
    const file = await honestFile();
    const bytes = sealFile({ ...file, rest: { ...file.rest, extra: { a: 1 } } });
    expect((await refusalOf(bytes)).code).toBe('E_PLAN_CANONICAL');
  });
});
