// The gradients of the training example's own layers are finite differences of what they compute.

import { expect, it } from 'vitest';
import { PIXELS, randomFrom } from '../../examples/train/digits.ts';
import {
  Activations,
  CLASSES,
  EXPERTS,
  embedAndRoute,
  embedAndRouteBackward,
  judge,
  judgeBackward,
  makeExpert,
  makeShared,
  runExperts,
  runExpertsBackward,
  WIDTH,
} from '../../examples/train/network.ts';

const TOKENS = 5;
const ROWS = { begin: 1, end: TOKENS };
const random = randomFrom(9);
const drawn = (length: number) => Float32Array.from({ length }, () => random() - 0.5);

/** In some elements of `values` the gradient lies between the slopes to both sides: relu may bend in between. */
function expectGradient(values: Float32Array, gradient: Float32Array, loss: () => number, count = 40): void {
  const step = 1 / 256;
  const tolerance = 0.003;
  let steep = 0;
  for (let probe = 0; probe < count; probe++) {
    const i = Math.floor(random() * values.length);
    const before = values[i]!;
    const [low, here, high] = [-step, 0, step].map((by) => {
      values[i] = before + by;
      return loss();
    }) as [number, number, number];
    values[i] = before;
    const slopes = [(here - low) / step, (high - here) / step];
    expect(gradient[i], `element ${i}`).toBeGreaterThan(Math.min(...slopes) - tolerance);
    expect(gradient[i], `element ${i}`).toBeLessThan(Math.max(...slopes) + tolerance);
    if (Math.abs(gradient[i]!) > 10 * tolerance) steep++;
  }
  expect(steep).toBeGreaterThan(0);
}

const dot = (a: Float32Array, b: Float32Array, from: number, to: number) => {
  let sum = 0;
  for (let i = from; i < to; i++) sum += a[i]! * b[i]!;
  return sum;
};

it('of the head and what it reads', () => {
  const shared = makeShared();
  const a = new Activations(TOKENS, 1);
  const d = new Activations(TOKENS, 1);
  const labels = Uint8Array.of(0, 3, 1, 9, 3);
  a.hidden.set(drawn(TOKENS * WIDTH));
  const experts = drawn(TOKENS * WIDTH);
  // The sum, not the mean, of the loss: its gradient is large enough to compare.
  const loss = () => {
    a.mixed.set(experts);
    return judge(ROWS, labels, shared, a).loss;
  };
  loss();
  const gradient = new Float32Array(shared.values.length);
  judgeBackward(ROWS, labels, 1, shared, gradient, a, d);
  expectGradient(shared.at('head'), shared.part(gradient, 'head'), loss);
  expectGradient(shared.at('headBias'), shared.part(gradient, 'headBias'), loss, CLASSES);
  expectGradient(experts, d.mixed, loss);
});

it('of an expert, its weights and its rows', () => {
  const experts = [makeExpert(2), makeExpert(5)];
  const rows = 6;
  // The second block begins after a row of padding.
  const blocks = {
    rank: 0,
    experts: Uint16Array.of(2, 5),
    expertOffsets: Uint32Array.of(0, 3, rows),
    expertCounts: Uint32Array.of(2, 3),
  };
  const a = new Activations(1, rows);
  const d = new Activations(1, rows);
  a.rows.set(drawn(rows * WIDTH));
  const upstream = drawn(rows * WIDTH);
  const loss = () => {
    runExperts(blocks, experts, a);
    return dot(a.outer, upstream, 0, 2 * WIDTH) + dot(a.outer, upstream, 3 * WIDTH, rows * WIDTH);
  };
  loss();
  d.outer.set(upstream);
  const gradients = experts.map(({ values }) => new Float32Array(values.length));
  runExpertsBackward(blocks, experts, gradients, a, d);
  experts.forEach((expert, i) => {
    expectGradient(expert.values, gradients[i]!, loss);
  });
  expectGradient(a.rows, d.rows, loss);
});

it('of the embedding and the router', () => {
  const shared = makeShared();
  const a = new Activations(TOKENS, 1);
  const d = new Activations(TOKENS, 1);
  const images = drawn(TOKENS * PIXELS);
  const [fromHead, fromExperts] = [drawn(TOKENS * WIDTH), drawn(TOKENS * WIDTH)];
  const fromGate = drawn(TOKENS * EXPERTS);
  const loss = () => {
    embedAndRoute(ROWS, images, shared, a);
    const range = [WIDTH, TOKENS * WIDTH] as const;
    return (
      dot(a.hidden, fromHead, ...range) +
      dot(a.hidden, fromExperts, ...range) +
      dot(a.routerLogits, fromGate, EXPERTS, TOKENS * EXPERTS)
    );
  };
  loss();
  d.mixed.set(fromHead);
  d.hidden.set(fromExperts);
  d.routerLogits.set(fromGate);
  const gradient = new Float32Array(shared.values.length);
  embedAndRouteBackward(ROWS, images, shared, gradient, a, d);
  for (const name of ['embed', 'embedBias', 'router'] as const) {
    expectGradient(shared.at(name), shared.part(gradient, name), loss);
  }
});
