// Dispatch and combine between processes, one rank each. Start it with fusco launch, torchrun, mpirun or srun:
//
//   npx fusco launch -n 2 -- node build/examples/hello/nccl.js
//
// Every expert returns its rows. The weights of a token add up to 1, so combine returns the token's row.

import { createGroup } from 'fusco';

const tokens = 64; // of each rank
const topk = 2;
const hidden = 256;
const rowBytes = hidden * 4;

await using group = await createGroup({ backend: 'nccl' }); // rank, size and address from the launcher
const [rank] = group.localRanks as [number];
const experts = 4 * group.ranks;

// Only the local rank's routing. Ranks gather their counts, and each plans its own shard.
const ids = Int32Array.from({ length: tokens * topk }, (_, i) => (rank + 3 * (i >> 1) + (i & 1)) % experts);
const plan = await group.planLocal([{ ids, tokens, topk }], { experts, hidden, dtype: 'f32' });
using exchange = await group.prepare(plan);

// Lists have one element, that of the local rank. JavaScript's memory is copied to the device and back.
const input = new Float32Array(tokens * hidden).map((_, i) => rank + i / 64);
const received = new Float32Array(exchange.recvRows[0]! * hidden);
const output = new Float32Array(tokens * hidden);
const weights = [new Float32Array(tokens * topk).fill(1 / topk)];
const { wire } = await exchange.dispatch({ payloads: [{ rowBytes, from: [input], to: [received] }] });
await exchange.combine({ dtype: 'f32', rowBytes, from: [received], to: [output], weights });

if (output.some((value, i) => value !== input[i])) throw new Error(`rank ${rank} has another result`);
console.log(
  `nccl: rank ${rank} of ${group.ranks}, ${wire?.sentBytes} bytes sent through NCCL, result as expected`,
);
