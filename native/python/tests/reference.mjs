// Runs a layer forward and backward on the TypeScript reference, for the Python tests to compare with:
//
//   node reference.mjs DIRECTORY
//
// DIRECTORY holds plan.fusco, layer.json {hidden, dtype} and raw arrays NAME.RANK.bin, little-endian: x, weights, made,
// outputGradient, rowsGradient. Written likewise: rows, output, madeGradient, weightsGradient, xGradient; and codes, scales,
// values: x to fp8 and back.

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const dist = new URL('../../../dist/', import.meta.url);
const { createGroup, ExpertLayer, scaleBlocks } = await import(new URL('executor/index.js', dist).href);
const { readPlan } = await import(new URL('tools/files/index.js', dist).href);

const [directory] = process.argv.slice(2);
const { hidden, dtype } = JSON.parse(readFileSync(join(directory, 'layer.json'), 'utf8'));
const plan = await readPlan(join(directory, 'plan.fusco'));
const ranks = plan.shards.map((_, rank) => rank);
const tokens = plan.shards.map((shard) => shard.tokens);
const { topk } = plan.spec;
const elementBytes = dtype === 'f32' ? 4 : 2;

// Copies, so that arrays of float32 are aligned.
const read = (name) =>
  ranks.map((rank) => Uint8Array.from(readFileSync(join(directory, `${name}.${rank}.bin`))));
const sized = (counts, bytes) => counts.map((count) => new Uint8Array(count * bytes));
const write = (arrays) => {
  for (const [name, perRank] of Object.entries(arrays)) {
    for (const rank of ranks) writeFileSync(join(directory, `${name}.${rank}.bin`), perRank[rank]);
  }
};

const group = await createGroup({ backend: 'reference', ranks: ranks.length });
const exchange = await group.prepare(plan);
const layer = new ExpertLayer(exchange, { hidden, dtype });
const { recvRows } = exchange;
const rowBytes = hidden * elementBytes;
const [x, weights, made] = ['x', 'weights', 'made'].map(read);
const rows = sized(recvRows, rowBytes);
await layer.dispatch({ tokens: x, rows });
const output = sized(tokens, rowBytes);
await layer.combine({ rows: made, tokens: output, weights });
const madeGradient = sized(recvRows, rowBytes);
const weightsGradient = sized(tokens, 4 * topk);
await layer.combineBackward({
  tokensGradient: read('outputGradient'),
  rowsGradient: madeGradient,
  weights,
  rows: made,
  weightsGradient,
});
const xGradient = sized(tokens, rowBytes);
await layer.dispatchBackward({ rowsGradient: read('rowsGradient'), tokensGradient: xGradient });
const codes = sized(tokens, hidden);
const scales = sized(tokens, 4 * scaleBlocks(hidden));
const values = sized(tokens, rowBytes);
await group.quantize({ dtype, hidden, rows: tokens, values: x, codes, scales });
await group.dequantize({ dtype, hidden, rows: tokens, values, codes, scales });
write({ rows, output, madeGradient, weightsGradient, xGradient, codes, scales, values });
exchange.close();
await group.close();
