// The rates at which GPUs copy: the ceilings of exchanges between them.

import { type Cuda, openCuda } from '../../executor/backends/cuda/context.ts';
import { DeviceClock, DeviceMemory } from './device.ts';
import type { Ceilings } from './exchangeFigures.ts';
import { type Candidate, measure, type Row } from './runner.ts';

/** Large enough for a copy to reach its rate. */
export const COPY_BYTES = 2 ** 29;

/** Work on the streams of all ranks at the same time, between events of the first one. */
function together(cuda: Cuda, enqueue: (rank: number) => void): () => void {
  return () => {
    const start = cuda.event(0);
    start.record();
    const ends = Array.from({ length: cuda.ranks }, (_, rank) => {
      if (rank > 0) start.wait(rank);
      enqueue(rank);
      const end = cuda.event(rank);
      end.record();
      return end;
    });
    for (const end of ends) end.wait(0);
    for (const event of [start, ...ends]) event.close();
  };
}

export interface CopyCandidates {
  /** All ranks copy at the same time: to their neighbors, from their neighbors, and within their memory. */
  readonly peer: Candidate;
  readonly read: Candidate;
  readonly local: Candidate;
}

/** Copies of `bytes` between the ranks' devices. */
export function copyCandidates(
  cuda: Cuda,
  memory: DeviceMemory,
  clock: DeviceClock,
  bytes: number,
): CopyCandidates {
  const { ranks } = cuda;
  const [from, to] = [0, 1].map(() => Array.from({ length: ranks }, (_, rank) => memory.alloc(rank, bytes)));
  const copy = (reads: number, writes: number): Candidate => ({
    bytes,
    run: clock.timed(
      together(cuda, (rank) =>
        cuda.copy(rank, to![(rank + writes) % ranks]!, from![(rank + reads) % ranks]!, bytes),
      ),
    ),
  });
  return { peer: copy(0, 1), read: copy(1, 0), local: copy(0, 0) };
}

/** `peer` is a link only if there are several devices. */
export function ceilingsOf(peer: Row | undefined, local: Row): Ceilings {
  return { linkGBs: peer?.rate, memoryGBs: 2 * local.rate };
}

/** Measures this process's devices, a rank on each; the first one alone if `several` is false. */
export async function measureCeilings(devices: number, several: boolean, rounds: number): Promise<Ceilings> {
  const used = several ? devices : 1;
  using cuda = openCuda(
    used,
    Array.from({ length: used }, (_, device) => device),
  );
  using memory = new DeviceMemory(cuda);
  using clock = new DeviceClock(cuda);
  const { peer, local } = copyCandidates(cuda, memory, clock, COPY_BYTES);
  const rows = await measure(
    { local, ...(used > 1 ? { peer } : {}) } as { local: Candidate; peer?: Candidate },
    {
      rounds,
    },
  );
  return ceilingsOf(rows.peer, rows.local);
}
