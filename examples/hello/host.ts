// Dispatch and combine on the CPU: four ranks in one process. Run it: npm run example:hello
//
// Every expert doubles its rows. The weights of a token add up to 1, so combine returns twice the token's row.

import { createGroup } from 'fusco';

const ranks = 4;
const tokens = 8; // of each rank
const topk = 2;
const experts = 16;
const hidden = 32;

// The host backend if the native addon is there, else the reference.
using group = await createGroup({ ranks });

// Routing: [tokens, topk] expert ids for each rank.
const idsOf = (rank: number) =>
  Int32Array.from({ length: tokens * topk }, (_, i) => (5 * rank + 3 * (i >> 1) + 7 * (i & 1)) % experts);
const routing = group.localRanks.map((rank) => ({ ids: idsOf(rank), tokens, topk }));
const plan = group.plan(routing, { experts, hidden, dtype: 'f32' });
using exchange = await group.prepare(plan);

// Buffers: one for each rank, f32. The plan says how many rows a rank receives.
const rowsOf = (count: number) => new Float32Array(count * hidden);
const input = exchange.tokens.map((count, rank) => rowsOf(count).map((_, i) => rank + i / 64));
const received = exchange.recvRows.map(rowsOf);
const output = exchange.tokens.map(rowsOf);
const weights = exchange.tokens.map((count) => new Float32Array(count * topk).fill(1 / topk));

const rowBytes = hidden * 4;
await exchange.dispatch({ payloads: [{ rowBytes, from: input, to: received }] });
const made = received.map((rows) => rows.map((value) => 2 * value)); // the experts
await exchange.combine({ dtype: 'f32', rowBytes, from: made, to: output, weights });

const wrong = output.findIndex((rows, rank) => rows.some((value, i) => value !== 2 * input[rank]![i]!));
if (wrong >= 0) throw new Error(`rank ${wrong} has another result`);
console.log(
  `${group.backend}: ${ranks} ranks, ${exchange.recvRows.join(' + ')} rows received, result as expected`,
);
