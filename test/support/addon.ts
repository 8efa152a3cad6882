// The addon for tests of it, and buffers. Where the addon is not built its tests are skipped, by name.

import { describe, type SuiteAPI } from 'vitest';
import {
  type Addon,
  findAddon,
  type NativeContextOptions,
  type NativePlan,
} from '../../executor/native/addon.ts';
import { nativeOptions } from '../../executor/native/planOptions.ts';
import type { Plan } from '../../planner/plan.ts';

const found = findAddon();
if (found.addon === undefined && process.env.FUSCO_REQUIRE_NATIVE === '1') throw new Error(found.reason);

/** Only inside describeNative. */
export const addon = found.addon as Addon;
export const describeNative: SuiteAPI | SuiteAPI['skip'] =
  found.addon === undefined ? describe.skip : describe;

/** Uploads a plan to a context of its own. Closing the context closes both. */
export function upload(plan: Plan, options: NativeContextOptions = { threads: 2 }) {
  const context = new addon.Context(options);
  return { context, native: uploadTo(context, plan) };
}

export function uploadTo(context: InstanceType<Addon['Context']>, plan: Plan): NativePlan {
  const shards = plan.shards.map((shard) => shard.bytes);
  return new addon.Plan(context, { ...nativeOptions(plan.spec), shards });
}

/** One buffer per rank, `shift` bytes from an aligned address, poisoned; the bytes in front and behind are kept. */
export function shifted(sizes: readonly number[], shift = 0): Uint8Array[] {
  return sizes.map((size) => new Uint8Array(size + shift + 64).fill(0xaa).subarray(shift, shift + size));
}

/** The whole memory of each buffer, so that a byte written outside of it shows. */
export function wholes(buffers: readonly Uint8Array[]): string[] {
  return buffers.map((bytes) => Buffer.from(bytes.buffer).toString('hex'));
}
