// Planners on devices, one for each set of options and bounds, and their plan buffers, which later plans use again.

import { hex } from '../../planner/format/bytes.ts';
import { optionsDigest } from '../../planner/format/digest.ts';
import { nodeSha256 } from '../../planner/node.ts';
import type { Cuda, DeviceBuffer } from './cuda/context.ts';
import type { DevicePlanRequest } from './types.ts';

/** A planner and its free plan buffers: one for each local rank. */
export interface KeptPlanner<Native> {
  readonly native: Native;
  /** Identical on all ranks. */
  readonly key: string;
  readonly free: DeviceBuffer[][];
}

/** The planners of a group, made at their first use and kept until the group is closed. */
export class Planners<Native extends { readonly bufferBytes: number }> {
  readonly #kept = new Map<string, Promise<KeptPlanner<Native>>>();
  readonly #made: KeptPlanner<Native>[] = [];
  readonly #open: (request: DevicePlanRequest, key: string) => Promise<Native>;

  constructor(open: (request: DevicePlanRequest, key: string) => Promise<Native>) {
    this.#open = open;
  }

  /** The planner of a request. */
  async of(request: DevicePlanRequest): Promise<KeptPlanner<Native>> {
    const digest = hex(await optionsDigest(request.spec, nodeSha256));
    const key = `${digest} ${request.spec.topk} ${request.maxTokens} ${request.maxRecvRows}`;
    const found = this.#kept.get(key);
    if (found !== undefined) return found;
    const made = this.#open(request, key).then((native) => {
      const kept: KeptPlanner<Native> = { native, key, free: [] };
      this.#made.push(kept);
      return kept;
    });
    this.#kept.set(key, made);
    made.catch(() => this.#kept.delete(key));
    return made;
  }

  /** All planners that have been made so far. */
  get made(): readonly KeptPlanner<Native>[] {
    return this.#made;
  }

  /** All planners, those included that are being made. */
  async all(): Promise<readonly KeptPlanner<Native>[]> {
    await Promise.allSettled(this.#kept.values());
    return this.#made;
  }
}

/** Plan buffers for `localRanks` ranks: those of a plan that was closed, or new ones. */
export function takeBuffers<Native extends { readonly bufferBytes: number }>(
  { native, free }: KeptPlanner<Native>,
  cuda: Cuda,
  localRanks: number,
): DeviceBuffer[] {
  return free.pop() ?? Array.from({ length: localRanks }, (_, rank) => cuda.alloc(rank, native.bufferBytes));
}

/** Frees the plan buffers of closed plans. */
export function freeBuffers({ free }: KeptPlanner<unknown>, cuda: Cuda): void {
  for (const buffers of free.splice(0)) for (const buffer of buffers) cuda.free(buffer);
}

/** Copies words of device memory to the host, and waits. */
export function readWords(cuda: Cuda, local: number, address: bigint, count: number): Uint32Array {
  const words = new Uint32Array(count);
  if (count === 0) return words;
  cuda.copy(local, words, { address, bytes: words.byteLength }, words.byteLength);
  cuda.synchronize();
  return words;
}
