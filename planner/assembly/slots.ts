// The hot path: a stable counting sort of a rank's entries by instance. Raw loads and stores, unrolled by eight entries,
// and a table at a fixed address, so that its base is part of the instruction. docs/performance.md has the figures.

import { MAX_INSTANCES } from '../format/layout';

/** u32[MAX_INSTANCES + 1]: counts while counting, next rows while assigning; the last one in use is for masked entries. */
const TABLE: usize = memory.data((MAX_INSTANCES + 1) << 2, 64);

/** Address of the table; the caller zeroes it before counting; fillSendTable fills in the first rows before assigning. */
export function slotTable(): usize {
  return TABLE;
}

/** table[i] += how often instance i occurs in instances[n] (u16). */
export function countInstances(instances: usize, n: u32): void {
  const end = instances + ((<usize>n) << 1);
  const unrolled = instances + ((<usize>(n & ~7)) << 1);
  while (instances < unrolled) {
    bump(load<u16>(instances));
    bump(load<u16>(instances, 2));
    bump(load<u16>(instances, 4));
    bump(load<u16>(instances, 6));
    bump(load<u16>(instances, 8));
    bump(load<u16>(instances, 10));
    bump(load<u16>(instances, 12));
    bump(load<u16>(instances, 14));
    instances += 16;
  }
  while (instances < end) {
    bump(load<u16>(instances));
    instances += 2;
  }
}

function bump(instance: u32): void {
  const at = (<usize>instance) << 2;
  store<u32>(at, load<u32>(at, TABLE) + 1, TABLE);
}

/** slots[e] = table[instances[e]]++ for n entries in order. */
export function assignSlots(instances: usize, n: u32, slots: usize): void {
  const end = instances + ((<usize>n) << 1);
  const unrolled = instances + ((<usize>(n & ~7)) << 1);
  while (instances < unrolled) {
    store<u32>(slots, take(load<u16>(instances)));
    store<u32>(slots, take(load<u16>(instances, 2)), 4);
    store<u32>(slots, take(load<u16>(instances, 4)), 8);
    store<u32>(slots, take(load<u16>(instances, 6)), 12);
    store<u32>(slots, take(load<u16>(instances, 8)), 16);
    store<u32>(slots, take(load<u16>(instances, 10)), 20);
    store<u32>(slots, take(load<u16>(instances, 12)), 24);
    store<u32>(slots, take(load<u16>(instances, 14)), 28);
    instances += 16;
    slots += 32;
  }
  while (instances < end) {
    store<u32>(slots, take(load<u16>(instances)));
    instances += 2;
    slots += 4;
  }
}

function take(instance: u32): u32 {
  const at = (<usize>instance) << 2;
  const row = load<u32>(at, TABLE);
  store<u32>(at, row + 1, TABLE);
  return row;
}
