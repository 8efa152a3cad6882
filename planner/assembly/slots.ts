// The hot path: a stable counting sort of a rank's entries by instance. Raw loads and stores, unrolled by
// eight entries; what else was tried is in docs/performance.md.

/** counts[i] += how often instance i occurs in instances[n] (u16). */
export function countInstances(instances: usize, n: u32, counts: usize): void {
  const end = instances + ((<usize>n) << 1);
  const unrolled = instances + ((<usize>(n & ~7)) << 1);
  while (instances < unrolled) {
    bump(counts, load<u16>(instances));
    bump(counts, load<u16>(instances, 2));
    bump(counts, load<u16>(instances, 4));
    bump(counts, load<u16>(instances, 6));
    bump(counts, load<u16>(instances, 8));
    bump(counts, load<u16>(instances, 10));
    bump(counts, load<u16>(instances, 12));
    bump(counts, load<u16>(instances, 14));
    instances += 16;
  }
  while (instances < end) {
    bump(counts, load<u16>(instances));
    instances += 2;
  }
}

function bump(counts: usize, instance: u32): void {
  const at = counts + ((<usize>instance) << 2);
  store<u32>(at, load<u32>(at) + 1);
}

/** slots[e] = next[instances[e]]++ for n entries in order. `next` holds each run's first row and is consumed. */
export function assignSlots(instances: usize, n: u32, next: usize, slots: usize): void {
  const end = instances + ((<usize>n) << 1);
  const unrolled = instances + ((<usize>(n & ~7)) << 1);
  while (instances < unrolled) {
    store<u32>(slots, take(next, load<u16>(instances)));
    store<u32>(slots, take(next, load<u16>(instances, 2)), 4);
    store<u32>(slots, take(next, load<u16>(instances, 4)), 8);
    store<u32>(slots, take(next, load<u16>(instances, 6)), 12);
    store<u32>(slots, take(next, load<u16>(instances, 8)), 16);
    store<u32>(slots, take(next, load<u16>(instances, 10)), 20);
    store<u32>(slots, take(next, load<u16>(instances, 12)), 24);
    store<u32>(slots, take(next, load<u16>(instances, 14)), 28);
    instances += 16;
    slots += 32;
  }
  while (instances < end) {
    store<u32>(slots, take(next, load<u16>(instances)));
    instances += 2;
    slots += 4;
  }
}

function take(next: usize, instance: u32): u32 {
  const at = next + ((<usize>instance) << 2);
  const row = load<u32>(at);
  store<u32>(at, row + 1);
  return row;
}
