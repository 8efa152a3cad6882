// Counts of experts in the binary files of recorders: the sums of what make.py counted.

import { zipSync } from 'fflate';
import { describe, expect, it } from 'vitest';
import { convertLayer } from '../../../tools/placement/convert.ts';
import { NAMES, readLayer, readPlacementLayer } from '../../../tools/placement/placementFile.ts';
import { readCountSteps, readCounts } from '../../../tools/readers/counts.ts';
import { encodeNpy } from '../../../tools/readers/npy.ts';
import { save, saveNpy, useTemporaryDirectory } from '../../support/cli.ts';
import { EXPERTS, foreign, routing } from './support.ts';

function countsOf(tables: readonly number[][][]): number[] {
  const counts = new Array<number>(EXPERTS).fill(0);
  for (const id of tables.flat(2)) counts[id]!++;
  return counts;
}

describe('readCounts', () => {
  it("adds up the steps of SGLang's dump, which then equals the published JSON", async () => {
    const expected = [0, 1, 2].map((layer) => countsOf([routing(layer, 9), routing(1 + layer, 9)]));
    expect(await readCounts(foreign('sglang-stat.pt'))).toEqual(expected);
    expect(await readCounts(foreign('sglang-counts.json'))).toEqual(expected);
  });

  it("adds up TensorRT-LLM's iterations; layers that are not counted are zero", async () => {
    const none = new Array<number>(EXPERTS).fill(0);
    const counted = [3, 4].map((layer) => countsOf([10, 11].map((iter) => routing(1 + iter + layer, 3))));
    expect(await readCounts(foreign('trtllm/rank1.safetensors'))).toEqual([none, none, none, ...counted]);
  });

  it('refuses routing', async () => {
    await expect(readCounts(foreign('trtllm/rank1_raw.safetensors'))).rejects.toThrow(
      'raw ids are a routing',
    );
    await expect(readCounts(foreign('views.pt'))).rejects.toMatchObject({ code: 'E_FORMAT' });
  });
});

describe('counts as people keep them', () => {
  useTemporaryDirectory();

  const counts = Int32Array.of(1, 2, 4, 8);
  const names = ['counts.npy', 'bare.json', 'one.json', 'steps.npy', 'steps.json', 'named.npz', 'counts.csv'];

  it.each(names)('%s', async (name) => {
    saveNpy('counts.npy', 'i32', [4], counts);
    save('bare.json', '[[1, 2, 4, 8]]');
    save('one.json', '[1, 2, 4, 8]');
    saveNpy('steps.npy', 'i64', [2, 1, 4], BigInt64Array.of(1n, 1n, 1n, 1n, 0n, 1n, 3n, 7n));
    save('steps.json', '{"logical_count": [[[1, 1, 1, 1]], [[0, 1, 3, 7]]]}');
    const npy = (values: Int32Array) => Buffer.concat(encodeNpy('i32', [1, 4], values));
    const members = { 'logical_count.npy': npy(counts), 'other.npy': npy(new Int32Array(4)) };
    save('named.npz', zipSync(members));
    save('counts.csv', 'expert_id,name,layer_id,count\n1,b,0,2\n0,a,0,1\n3,,0,5\n\n2,c,0,4\n3,d,0,3\n');
    expect(await readCounts(name)).toEqual([[1, 2, 4, 8]]);
  });

  it('two axes are layers and experts; layers without a line of CSV are zero', async () => {
    saveNpy('two.npy', 'u16', [2, 3], Uint16Array.of(1, 2, 3, 4, 5, 6));
    const two = [
      [1, 2, 3],
      [4, 5, 6],
    ];
    expect(await readCounts('two.npy')).toEqual(two);
    save('two.json', JSON.stringify(two));
    expect(await readCounts('two.json')).toEqual(two);
    save('two.csv', 'layer,expert,count\n2,1,7\n0,2,1\n');
    expect(await readCounts('two.csv')).toEqual([
      [0, 0, 1],
      [0, 0, 0],
      [0, 7, 0],
    ]);
  });

  it('of each step, of one layer or of all', async () => {
    save('s.json', '[[[1, 2], [3, 4]], [[5, 6], [0, 8]]]');
    expect(await readCountSteps('s.json')).toEqual([
      [4, 6],
      [5, 14],
    ]);
    expect(await readCountSteps('s.json', 1)).toEqual([
      [3, 4],
      [0, 8],
    ]);
    const iterations = [10, 11].map((iter) => countsOf([routing(1 + iter + 4, 3)]));
    expect(await readCountSteps(foreign('trtllm/rank1.safetensors'), 4)).toEqual(iterations);
    await expect(readCountSteps('s.json', 2)).rejects.toMatchObject({ code: 'E_OPTION' });
    save('c.csv', 'layer_id,expert_id,count\n1,0,3\n0,1,2\n');
    expect(await readCountSteps('c.csv')).toEqual([[3, 2]]);
  });

  it.each([
    ['{"logical_count": [[1, -2]]}', 'layer 0 is not 2 counts'],
    ['[[1, 2], [3]]', 'layer 1 counts 1 experts after 2'],
    ['[]', 'counts 0 experts'],
    ['layer_id,expert_id\n0,1\n', 'no column count'],
    ['layer_id,expert_id,count\n0,1,x\n', 'line 2: "x" is no count'],
    ['layer_id,expert_id,count,count\n0,1,2,3\n', 'the column count occurs twice'],
    ['layer_id,expert_id,count\n', 'it has no counts'],
  ])('refuses %j', async (text, message) => {
    save('c', text);
    const refusal = await readCounts('c').catch((error) => error);
    expect([refusal.code, refusal.message]).toEqual(['E_FORMAT', expect.stringContaining(message)]);
    expect(refusal.hint).toMatch(/Counts are integers|CSV has a line of names/);
  });
});

describe('readLayer of a placement', () => {
  it("takes the map out of SGLang's dump", async () => {
    const dump = foreign('sglang/expert_distribution_recorder_1750000000.0_0.pt');
    // make.py: slot p of layer 1 holds expert (p + 1) % 6, 8 slots on 4 ranks.
    const found = await readPlacementLayer(dump, undefined, 1);
    expect(found).toMatchObject({ format: 'phy2log', layer: [1, 2, 3, 4, 5, 0, 1, 2] });
    expect(convertLayer(found, { ranks: 4, path: dump }).map).toEqual([2, [0, 3], [0, 3], 1, 1, 2]);
    await expect(readLayer(foreign('views.pt'), NAMES.phy2log, 1, 0)).rejects.toMatchObject({
      code: 'E_FORMAT',
    });
  });
});
