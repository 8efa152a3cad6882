// Times of native code and of other threads on the clock of performance.now().

/** Pairs of readings of both clocks; the closest pair counts, because a thread may be descheduled between the two. */
const READINGS = 16;

/** Milliseconds from performance.now() to the steady clock, which native code and process.hrtime read. */
function measureOffset(): number {
  let offset = 0;
  let closest = Number.POSITIVE_INFINITY;
  for (let i = 0; i < READINGS; i++) {
    const before = performance.now();
    const steady = Number(process.hrtime.bigint()) / 1e6;
    const after = performance.now();
    if (after - before >= closest) continue;
    closest = after - before;
    offset = steady - (before + after) / 2;
  }
  return offset;
}

const CLOCK_OFFSET = measureOffset();

/** Converts nanoseconds of the steady clock, which all threads share, to milliseconds of this thread's performance.now(). */
export function fromSteady(nanoseconds: number): number {
  return nanoseconds / 1e6 - CLOCK_OFFSET;
}
