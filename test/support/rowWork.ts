// Inputs of fp8 and gating that reach every branch, and what the oracle makes of them.

import {
  type GateOptions,
  gateTokens,
  gateTokensBackward,
  resolveGate,
} from '../../executor/training/gating.ts';
import { randomFrom } from './workloads.ts';

/** Rows that reach every branch: ordinary blocks, tiny ones, zeros, NaN, infinities, values half way. */
export function specialRows(count: number): Float32Array {
  const random = randomFrom(2);
  const specials = [
    0,
    -0,
    Number.NaN,
    Number.POSITIVE_INFINITY,
    Number.NEGATIVE_INFINITY,
    448,
    464,
    1e-38,
    1e-45,
  ];
  return Float32Array.from({ length: count }, (_, i) => {
    if (random() < 0.002) return specials[Math.floor(random() * specials.length)]!;
    const spread = Math.floor(i / 1000) % 5;
    if (spread === 4) return (random() - 0.5) * 2e-5;
    // Multiples of 1/16 below 448: with a largest size of 448 they are rounded as they are.
    if (spread === 3) return i % 1000 === 0 ? 448 : Math.floor(random() * 7168) / 16 - 224;
    return (random() - 0.5) * 2 ** Math.floor(random() * 30 - 15);
  });
}

/** Uniform floats from -spread / 2 to spread / 2. */
export function drawn(seed: number, count: number, spread: number): Float32Array {
  const random = randomFrom(seed);
  return Float32Array.from({ length: count }, () => (random() - 0.5) * spread);
}

/** Logits of every size, in every third token with many ties, now and then a NaN, an infinity, a zero. */
export function specialLogits(seed: number, tokens: number, experts: number): Float32Array {
  const random = randomFrom(seed);
  const specials = [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, -0, 100, -100];
  return drawn(seed, tokens * experts, 200).map((x, i) => {
    if (random() < 0.003) return specials[Math.floor(random() * specials.length)]!;
    const token = Math.floor(i / experts);
    return token % 3 === 0 ? Math.round(x / 40) : x / 2 ** (token % 7);
  });
}

/** Biases of the experts, infinities of both signs and a NaN among them. */
export function specialBias(seed: number, experts: number): Float32Array {
  const specials = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, Number.NaN];
  return drawn(seed, experts, 0.5).map((value, e) => (e % 11 < 3 ? specials[e % 11]! : value));
}

export interface Gated {
  readonly ids: Uint8Array;
  readonly weights: Uint8Array;
  readonly scores: Uint8Array;
  readonly logitsGradient: Uint8Array;
}

/** What the oracle gives for one rank's tokens, forward and backward. */
export function wantedGate(
  options: GateOptions,
  tokens: number,
  logits: Float32Array,
  bias: Float32Array | undefined,
  weightsGradient: Float32Array,
): Gated {
  const spec = resolveGate(options);
  const entries = () => new Uint8Array(4 * tokens * spec.topk);
  const all = () => new Uint8Array(4 * tokens * spec.experts);
  const wanted = { ids: entries(), weights: entries(), scores: all(), logitsGradient: all() };
  gateTokens(spec, tokens, { ...wanted, logits, ...(bias === undefined ? {} : { bias }) });
  gateTokensBackward(spec, tokens, { ...wanted, weightsGradient });
  return wanted;
}
