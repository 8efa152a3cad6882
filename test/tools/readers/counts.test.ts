// Counts of experts in the binary files of recorders: the sums of what make.py counted.

import { describe, expect, it } from 'vitest';
import { readCounts } from '../../../tools/workload/counts.ts';
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
