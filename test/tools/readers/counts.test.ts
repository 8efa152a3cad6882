// Counts of experts in the binary files of recorders: the sums of what make.py counted.

import { describe, expect, it } from 'vitest';
import { fromPhysical, readLayer } from '../../../tools/placement/convert.ts';
import { readCounts } from '../../../tools/readers/counts.ts';
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
    await expect(readCounts(foreign('views.pt'))).rejects.toMatchObject({ code: 'E_FOREIGN' });
  });
});

describe('readLayer of a placement', () => {
  it("takes the map out of SGLang's dump", async () => {
    const dump = foreign('sglang/expert_distribution_recorder_1750000000.0_0.pt');
    // make.py: slot p of layer 1 holds expert (p + 1) % 6, 8 slots on 4 ranks.
    const layer = await readLayer(dump, 'physical_to_logical_map', 1, 1);
    expect(layer).toEqual([1, 2, 3, 4, 5, 0, 1, 2]);
    expect(fromPhysical(layer, 4, dump).map).toEqual([2, [0, 3], [0, 3], 1, 1, 2]);
    await expect(readLayer(foreign('views.pt'), 'phy2log', 1, 0)).rejects.toMatchObject({
      code: 'E_FOREIGN',
    });
  });
});
