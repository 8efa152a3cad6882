// Routing by a counter hash, the same bytes in every program that has BLAKE2b: the workload of the CollectiveX benchmark, so
// that figures can be compared with those of other libraries.
//
//   counter(token, slot, attempt, stream) = u64 of BLAKE2b with an 8-byte digest and the key u64 seed, over the message
//                                           u64 token, u64 slot, u64 attempt, u64 stream; all little-endian
//   expert of (token, slot) = counter(token, slot, attempt, 0) mod experts, for the first attempt 0, 1, … whose expert
//                             the token does not have yet
//   weight of (token, slot) = raw / (sum of raw over the token's slots), as float64 rounded to float32, where
//                             raw = 1 + counter(token, slot, 0, 1) mod 65535
//
// Tokens are numbered over all ranks, T on each: rank r has tokens r x T to (r + 1) x T - 1. Further steps, which the
// benchmark does not have, continue the numbers.

import { blake2b } from '@noble/hashes/blake2.js';
import type { RoutingTable } from '../../planner/routing.ts';

export interface CounterSizes {
  readonly ranks: number;
  /** Tokens of each rank. */
  readonly tokens: number;
  readonly topk: number;
  /** At least topk. */
  readonly experts: number;
}

export interface CounterWorkload extends CounterSizes {
  /** 0..2^32-1. The benchmark's is 67. */
  readonly seed: number;
  /** 0..2^32-1. Default 0, which is the benchmark's. */
  readonly step?: number;
}

type Counter = (token: bigint, slot: number, attempt: number, stream: number) => bigint;

const U64 = 8;
const WEIGHT_LEVELS = 65535n;

function littleEndian(...words: readonly (number | bigint)[]): Uint8Array {
  const bytes = new Uint8Array(U64 * words.length);
  const view = new DataView(bytes.buffer);
  for (const [i, word] of words.entries()) view.setBigUint64(U64 * i, BigInt(word), true);
  return bytes;
}

function counterOf(seed: number): Counter {
  const key = littleEndian(seed);
  return (...place) => {
    const digest = blake2b(littleEndian(...place), { key, dkLen: U64 });
    return new DataView(digest.buffer, digest.byteOffset).getBigUint64(0, true);
  };
}

/** Number of a rank's first token. */
function firstToken({ step = 0, ranks, tokens }: Omit<CounterWorkload, 'experts'>, rank: number): bigint {
  return (BigInt(step) * BigInt(ranks) + BigInt(rank)) * BigInt(tokens);
}

/** One rank's table. Sizes must have been checked. */
export function counterTable(workload: CounterWorkload, rank: number): RoutingTable {
  const { seed, tokens, topk, experts } = workload;
  const counter = counterOf(seed);
  const first = firstToken(workload, rank);
  const ids = new Int32Array(tokens * topk);
  for (let token = 0; token < tokens; token++) {
    const chosen = ids.subarray(token * topk, (token + 1) * topk);
    for (let slot = 0; slot < topk; slot++) {
      let attempt = 0;
      let expert: number;
      do {
        expert = Number(counter(first + BigInt(token), slot, attempt++, 0) % BigInt(experts));
      } while (chosen.subarray(0, slot).includes(expert));
      chosen[slot] = expert;
    }
  }
  return { ids, tokens, topk };
}

/** One table per rank. */
export function counterTables(workload: CounterWorkload): RoutingTable[] {
  return Array.from({ length: workload.ranks }, (_, rank) => counterTable(workload, rank));
}

/** The gate weights of those tables, f32 [tokens, topk] per rank; those of a token add up to 1. */
export function counterWeights(workload: Omit<CounterWorkload, 'experts'>): Float32Array[] {
  const { seed, ranks, tokens, topk } = workload;
  const counter = counterOf(seed);
  return Array.from({ length: ranks }, (_, rank) => {
    const first = firstToken(workload, rank);
    const weights = new Float32Array(tokens * topk);
    for (let token = 0; token < tokens; token++) {
      const raw = Array.from({ length: topk }, (_slot, slot) =>
        Number(1n + (counter(first + BigInt(token), slot, 0, 1) % WEIGHT_LEVELS)),
      );
      const total = raw.reduce((sum, value) => sum + value, 0);
      for (const [slot, value] of raw.entries()) weights[token * topk + slot] = value / total;
    }
    return weights;
  });
}
