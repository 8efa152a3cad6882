// Dispatch and combine in device memory: two ranks on the GPUs of one process. Needs compute capability 9.0.
//
// Every expert returns its rows. The weights of a token add up to 1, so combine returns the token's row.

import { createGroup, type DeviceBuffer, openCuda } from 'fusco';

const ranks = 2;
const tokens = 64; // of each rank
const topk = 2;
const experts = 8;
const hidden = 256;
const rowBytes = hidden * 4;

using cuda = openCuda(ranks); // ranks in blocks over all devices
using group = await createGroup({ ranks, backend: 'cuda', cuda });

const idsOf = (rank: number) =>
  Int32Array.from({ length: tokens * topk }, (_, i) => (rank + 3 * (i >> 1) + 5 * (i & 1)) % experts);
const routing = group.localRanks.map((rank) => ({ ids: idsOf(rank), tokens, topk }));
const plan = group.plan(routing, { experts, hidden, dtype: 'f32' });
using exchange = await group.prepare(plan);

const upload = (rank: number, values: Float32Array): DeviceBuffer => {
  const buffer = cuda.alloc(rank, values.byteLength);
  cuda.copy(rank, buffer, values, values.byteLength);
  return buffer;
};
const input = exchange.tokens.map((count, rank) =>
  new Float32Array(count * hidden).map((_, i) => rank + i / 64),
);
const from = input.map((values, rank) => upload(rank, values));
const weights = exchange.tokens.map((count, rank) => upload(rank, new Float32Array(count * topk).fill(0.5)));
const received = exchange.recvRows.map((count, rank) => cuda.alloc(rank, Math.max(1, count * rowBytes)));
const to = exchange.tokens.map((count, rank) => cuda.alloc(rank, count * rowBytes));

// Both calls enqueue on each rank's stream and return; another kernel on that stream runs after them.
await exchange.dispatch({ payloads: [{ rowBytes, from, to: received }] });
await exchange.combine({ dtype: 'f32', rowBytes, from: received, to, weights });

const output = input.map((values) => new Float32Array(values.length));
for (const [rank, values] of output.entries()) cuda.copy(rank, values, to[rank]!, values.byteLength);
cuda.synchronize();
const wrong = output.findIndex((values, rank) => values.some((value, i) => value !== input[rank]![i]));
if (wrong >= 0) throw new Error(`rank ${wrong} has another result`);
console.log(`cuda: ${ranks} ranks, ${exchange.recvRows.join(' + ')} rows received, result as expected`);
