// On the host backend an exchange runs on the library's threads while this thread runs the experts. (The reference works on
// this thread, too: nothing overlaps there.)

import { type BackendName, createGroup, type ExchangeReport, ExpertLayer, type Group } from 'fusco';
import { type Engine, routingOf, type Sizes, tokensOf } from './engine.ts';
import type { Span, Stage } from './timeline.ts';

interface Half {
  readonly layer: ExpertLayer;
  readonly tokens: readonly Float32Array[];
  readonly rows: readonly Float32Array[];
  readonly weights: readonly Float32Array[];
  readonly combined: readonly Float32Array[];
}

async function openHalf(group: Group, sizes: Sizes, half: number): Promise<Half> {
  const { experts, hidden, topk } = sizes;
  const plan = group.plan(routingOf(sizes, half), { experts, hidden, dtype: 'f32' });
  const exchange = await group.prepare(plan);
  const sized = (counts: readonly number[], width: number) =>
    counts.map((count) => new Float32Array(count * width));
  return {
    layer: new ExpertLayer(exchange, { hidden, dtype: 'f32' }),
    tokens: exchange.tokens.map((_, rank) => tokensOf(sizes, half, rank)),
    rows: sized(exchange.recvRows, hidden),
    weights: sized(exchange.tokens, topk).map((weights) => weights.fill(1 / topk)),
    combined: sized(exchange.tokens, hidden),
  };
}

/** Small experts, in place: y = leaky relu(gain * x + bias), with a gain and a bias for every element and expert. */
function runExperts({ layer, rows }: Half, gains: readonly Float32Array[], biases: readonly Float32Array[]) {
  const { hidden } = layer;
  layer.blocks.forEach(({ experts, expertOffsets, expertCounts }, i) => {
    const values = rows[i]!;
    experts.forEach((expert, block) => {
      const gain = gains[expert]!;
      const bias = biases[expert]!;
      const first = expertOffsets[block]!;
      for (let row = first; row < first + expertCounts[block]!; row++) {
        for (let j = 0, at = row * hidden; j < hidden; j++, at++) {
          const y = gain[j]! * values[at]! + bias[j]!;
          values[at] = y < 0 ? y / 8 : y;
        }
      }
    });
  });
}

export async function openHostEngine(
  sizes: Sizes,
  backend: BackendName | 'auto',
  threads: number,
): Promise<Engine & { readonly backend: BackendName }> {
  const { ranks } = sizes;
  const isHost = backend === 'auto' || backend === 'host';
  const group = await createGroup(isHost ? { ranks, backend, threads } : { ranks, backend });
  const halves = [await openHalf(group, sizes, 0), await openHalf(group, sizes, 1)];
  const perExpert = (value: (expert: number, j: number) => number) =>
    Array.from({ length: sizes.experts }, (_, expert) =>
      Float32Array.from({ length: sizes.hidden }, (_, j) => value(expert, j)),
    );
  const gains = perExpert((expert, j) => 1 + ((expert * 31 + j) % 17) / 64);
  const biases = perExpert((expert, j) => ((expert * 13 + j) % 7) / 32);
  let spans: Span[] = [];
  const exchanged = (stage: Stage, half: number, { startedAt, nanoseconds }: ExchangeReport) => {
    const end = performance.now();
    const start = startedAt ?? end - nanoseconds / 1e6;
    spans.push({ stage, half, start, end: start + nanoseconds / 1e6 });
  };
  return {
    backend: group.backend,
    async dispatch(half) {
      const { layer, tokens, rows } = halves[half]!;
      exchanged('dispatch', half, await layer.dispatch({ tokens, rows }));
    },
    async experts(half) {
      const start = performance.now();
      runExperts(halves[half]!, gains, biases);
      spans.push({ stage: 'experts', half, start, end: performance.now() });
    },
    async combine(half) {
      const { layer, rows, combined: tokens, weights } = halves[half]!;
      exchanged('combine', half, await layer.combine({ rows, tokens, weights }));
    },
    async finish() {
      const done = spans;
      spans = [];
      return done;
    },
    results: () => halves.flatMap(({ combined }) => combined),
    [Symbol.dispose]: () => void group.close(),
  };
}
