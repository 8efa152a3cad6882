// Memory that a plan's rows need on its largest rank, by backend, for one payload of the nominal row size.

import type { Plan } from '../../planner/plan.ts';
import { DTYPE_BYTES } from '../../planner/spec.ts';
import { largest, sum } from '../../planner/totals.ts';

/**
 * Bytes of the rank that needs most: its tokens and its receive buffer, and the additional memory of a backend. Upper
 * bounds. They do not include the tables of a plan and the fixed ring buffers of `nccl` (`Exchange.bufferBytes`).
 */
export interface Memory {
  /** Of the largest receive buffer alone, including padding and the rows of replicas. */
  readonly recvBytes: number;
  /** `reference` and `host`: the caller's buffers. */
  readonly host: number;
  /**
   * The caller's buffers and, in hierarchical plans, the landing rows of a dispatch and the partial sums of a combine.
   */
  readonly cuda: number;
  /** The caller's buffers, and the rows that return to this rank's tokens. */
  readonly nccl: number;
}

export function memoryOf({ spec, shards }: Plan): Memory {
  const { rowBytes, dtype, partial } = spec;
  // Partial sums in float32 are larger than the payload's elements.
  const sumBytes = partial === 'f32' ? (rowBytes / DTYPE_BYTES[dtype]) * DTYPE_BYTES.f32 : rowBytes;
  const most = (bytes: (shard: Plan['shards'][number]) => number) => largest(shards.map(bytes));
  const own = ({ tokens, recvRows }: Plan['shards'][number]) => (tokens + recvRows) * rowBytes;
  return {
    recvBytes: most(({ recvRows }) => recvRows * rowBytes),
    host: most(own),
    cuda: most((shard) => own(shard) + shard.stageRows * rowBytes + sum(shard.forwardRows) * sumBytes),
    nccl: most((shard) => own(shard) + shard.kept * sumBytes),
  };
}
