// The native objects behind the public classes, for the benches and the tests of this repository. The package does not
// export this file.

import { FuscoError } from '../planner/errors.ts';
import { type Cuda, nativeCuda } from './backends/cuda/context.ts';
import { NcclPlan } from './backends/nccl/backend.ts';
import { type Exchange, preparedOf } from './group.ts';
import { type BenchAddon, findBenchAddon } from './native/benchAddon.ts';
import { attempt } from './native/errors.ts';
import type { NativeNcclPlan } from './native/types.ts';

export { nativeCuda, nativeDevicePlan } from './backends/cuda/context.ts';
export {
  type BenchAddon,
  type CopyVariant,
  findBenchAddon,
  type NativeNcclUnfused,
} from './native/benchAddon.ts';

/** The addon of the benches. Throws FuscoError E_BACKEND if it is not there. */
export function requireBenchAddon(): BenchAddon {
  const found = findBenchAddon();
  if (found.addon !== undefined) return found.addon;
  throw new FuscoError('E_BACKEND', found.reason);
}

/**
 * Keeps a rank's stream busy for `nanoseconds`: enqueues and returns.
 *
 * @throws FuscoError E_BACKEND without the addon of the benches
 */
export function spin(cuda: Cuda, rank: number, nanoseconds: number): void {
  const addon = requireBenchAddon();
  attempt(() => addon.cudaSpin(nativeCuda(cuda), rank, nanoseconds));
}

/**
 * Occupies all SMs of a rank's device but `smsLeft` for `nanoseconds`, on the rank's stream: enqueues and returns.
 *
 * @throws FuscoError E_BACKEND without the addon of the benches
 */
export function occupy(cuda: Cuda, rank: number, smsLeft: number, nanoseconds: number): void {
  const addon = requireBenchAddon();
  attempt(() => addon.cudaOccupy(nativeCuda(cuda), rank, smsLeft, nanoseconds));
}

/**
 * Runs native work on the plan of an exchange of the nccl backend, as one numbered call of its group. All ranks make the
 * same calls in the same order.
 *
 * @param what names the call; compared between the ranks
 * @throws FuscoError E_BACKEND on other backends; E_PEER_TIMEOUT, E_PEER_MISMATCH
 */
export async function ncclCall<T>(
  exchange: Exchange,
  what: string,
  work: (native: NativeNcclPlan, call: number, digest: bigint) => Promise<T>,
): Promise<T> {
  const prepared = preparedOf(exchange);
  if (!(prepared instanceof NcclPlan))
    throw new FuscoError('E_BACKEND', 'not an exchange of the nccl backend');
  return prepared.call([what], work);
}
