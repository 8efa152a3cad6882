// Dumps of SGLang whose map cannot explain what was recorded, and their physical ids.

import { describe, expect, it } from 'vitest';
import { expectRefusal, fusco, fuscoJson, save, useTemporaryDirectory } from '../../support/cli.ts';
import { dict, int, list, tensor, torchOf } from '../../support/handTorch.ts';

useTemporaryDirectory();

/** A dump of one rank per list of slots [tokens][2], and the map of one layer. */
function saveDumps(ranks: readonly (readonly number[][])[], map: readonly number[]): void {
  ranks.forEach((slots, rank) => {
    const { length: tokens } = slots;
    const ids = tensor([1, tokens, 2], [2 * tokens, 2, 1], 2 * tokens, { type: 'Int' });
    const record = dict({ forward_pass_id: int(1), rank: int(rank), topk_ids_of_layer: ids });
    const last = tensor([1, map.length], [map.length, 1], map.length, { key: '1', type: 'Long' });
    const dump = torchOf(
      dict({ records: list([record]), last_physical_to_logical_map: last }),
      new Uint8Array(Int32Array.from(slots.flat()).buffer),
      new Uint8Array(BigInt64Array.from(map, BigInt).buffer),
    );
    save(`dumps/expert_distribution_recorder_1.0_${rank}.pt`, dump);
  });
}

const plan = (...options: string[]) => ['plan', 'dumps', '-o', 'p.fusco', ...options];

describe('physical experts', () => {
  // Ten slots on two ranks; experts 0 and 1 have a second slot.
  const MAP = [0, 1, 2, 3, 4, 5, 6, 7, 0, 1];

  it('become logical ones', async () => {
    saveDumps([[[0, 3]], [[8, 9]]], MAP);
    await fuscoJson(...plan('--experts', '8'));
    // Experts 0, 3 and 0, 1 live on rank 0.
    expect(await fuscoJson('inspect', 'p.fusco')).toMatchObject({ tokens: [1, 1], recvRows: [4, 0] });
  });

  it('keep their numbers with --physical-ids, so that the traffic of each replica shows', async () => {
    saveDumps([[[0, 3]], [[8, 9]]], MAP);
    await fuscoJson(...plan('--experts', '10', '--physical-ids'));
    expect(await fuscoJson('inspect', 'p.fusco')).toMatchObject({ experts: 10, recvRows: [2, 2] });
  });

  it('in a slot without an expert are refused with the slot', async () => {
    saveDumps([[[0, 8]], [[1, 2]]], [...MAP.slice(0, 8), -1, 1]);
    expectRefusal(
      await fusco(...plan('--experts', '8')),
      'E_FOREIGN',
      /_0\.pt: record 0, forward pass 1, token 0 chose slot 8, which holds no expert in last_physical_to_logical_map \(.*--physical-ids/,
    );
    await fuscoJson(...plan('--experts', '10', '--physical-ids'));
  });

  it('of one expert twice mean that the map changed', async () => {
    saveDumps(
      [
        [[2, 3]],
        [
          [1, 2],
          [0, 8],
        ],
      ],
      MAP,
    );
    expectRefusal(
      await fusco(...plan('--experts', '8')),
      'E_FOREIGN',
      /_1\.pt: record 0, forward pass 1, token 1 chose slots 0 and 8, which both hold expert 0 in last_physical_to_logical_map: the map changed while recording/,
    );
  });

  it('twice the same slot are a duplicate, whatever the map', async () => {
    saveDumps([[[2, 2]], [[1, 2]]], MAP);
    expectRefusal(
      await fusco(...plan('--experts', '8')),
      'E_ROUTING_DUPLICATE',
      'expert 2 was already chosen',
    );
  });

  it('are masked by the numbers that were recorded', async () => {
    saveDumps([[[10, 3]], [[8, 9]]], MAP);
    expectRefusal(
      await fusco(...plan('--experts', '8')),
      'E_FOREIGN',
      'physical expert 10 of layer 0 is not in 0..9',
    );
    await fuscoJson(...plan('--experts', '8', '--mask-ids', '10'));
    expect(await fuscoJson('inspect', 'p.fusco')).toMatchObject({ maskedEntries: 1 });
  });
});
