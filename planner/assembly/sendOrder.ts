// A source rank's send order, entries by (instance, token, k), and its slices.

import { SLICE_WORDS, SLOT_DROPPED, SLOT_MASKED } from '../format/layout';

/** A word that nobody reads, for stores that a branch would leave out. */
const UNREAD = memory.data(4);

/** slots[e] = SLOT_MASKED where instances[e] == masked. Returns how many. */
export function markMasked(instances: usize, n: u32, masked: u32, slots: usize): u32 {
  let marked: u32 = 0;
  for (let e: usize = 0; e < <usize>n; e++) {
    if (<u32>load<u16>(instances + (e << 1)) == masked) {
      store<i32>(slots + (e << 2), SLOT_MASKED);
      marked++;
    }
  }
  return marked;
}

/** slots[e] = SLOT_DROPPED where the slot lies beyond the kept rows of its run. Returns how many. */
export function markDropped(
  instances: usize,
  n: u32,
  masked: u32,
  sendRow: usize,
  sendRows: usize,
  slots: usize,
): u32 {
  let marked: u32 = 0;
  for (let e: usize = 0; e < <usize>n; e++) {
    const instance = <u32>load<u16>(instances + (e << 1));
    if (instance == masked) continue;
    const at = (<usize>instance) << 2;
    if (load<u32>(slots + (e << 2)) >= load<u32>(sendRow + at) + load<u32>(sendRows + at)) {
      store<i32>(slots + (e << 2), SLOT_DROPPED);
      marked++;
    }
  }
  return marked;
}

/** S_SEND_ENTRY where every entry is kept and sent directly: each at its place in the send order. */
function fillWholeSendOrder(instances: usize, slots: usize, n: u32, shift: usize, sendEntry: usize): void {
  let entry: u32 = 0;
  for (; entry + 4 <= n; entry += 4, instances += 8, slots += 16) {
    place(sendEntry, shift, load<u16>(instances), load<u32>(slots), entry);
    place(sendEntry, shift, load<u16>(instances, 2), load<u32>(slots, 4), entry + 1);
    place(sendEntry, shift, load<u16>(instances, 4), load<u32>(slots, 8), entry + 2);
    place(sendEntry, shift, load<u16>(instances, 6), load<u32>(slots, 12), entry + 3);
  }
  for (; entry < n; entry++, instances += 2, slots += 4) {
    place(sendEntry, shift, load<u16>(instances), load<u32>(slots), entry);
  }
}

function place(sendEntry: usize, shift: usize, instance: u32, slot: u32, entry: u32): void {
  store<u32>(placeOf(sendEntry, shift, instance, slot), entry);
}

/** Address of an entry's place in the send order. Of a masked entry, which has none, the result means nothing. */
function placeOf(sendEntry: usize, shift: usize, instance: u32, slot: u32): usize {
  const position = slot + load<u32>(shift + ((<usize>instance) << 2));
  return sendEntry + ((<usize>position) << 2);
}

/**
 * S_SEND_ENTRY: every kept entry of the instances [directFirst, directEnd) at its place in the send order.
 *
 * @param direct rows of the send order; if it is n, no entry is left out and none is tested
 * @param shift  u32[instances], position in the send order - row, from fillSendTable (wraps)
 */
export function fillSendOrder(
  instances: usize,
  slots: usize,
  n: u32,
  direct: u32,
  directFirst: u32,
  directEnd: u32,
  shift: usize,
  sendEntry: usize,
): void {
  if (direct == n) return fillWholeSendOrder(instances, slots, n, shift, sendEntry);
  const span = directEnd - directFirst;
  // Which entries are sent directly cannot be predicted, so the others are stored as well, where nobody reads them.
  for (let entry: u32 = 0; entry < n; entry++, instances += 2, slots += 4) {
    const slot = load<i32>(slots);
    const instance = <u32>load<u16>(instances);
    const isDirect = u32(slot >= 0) & u32(instance - directFirst < span);
    store<u32>(select<usize>(placeOf(sendEntry, shift, instance, <u32>slot), UNREAD, isDirect), entry);
  }
}

/** position[i] = {first row, rows} of the ranks first, first + 1, …, `count` of them, for the slices. */
export function peerPositions(
  first: u32,
  count: u32,
  rankFirst: usize,
  sendRows: usize,
  position: usize,
): void {
  let row: u32 = 0;
  for (let i: u32 = 0; i < count; i++, position += 8) {
    const end = load<u32>(rankFirst + ((<usize>(first + i + 1)) << 2));
    let rows: u32 = 0;
    for (let instance = load<u32>(rankFirst + ((<usize>(first + i)) << 2)); instance < end; instance++) {
      rows += load<u32>(sendRows + ((<usize>instance) << 2));
    }
    store<u32>(position, row);
    store<u32>(position, rows, 4);
    row += rows;
  }
}

/** Number of slices of `count` peers, from position[i] = {first row, rows}. */
export function countSlices(count: u32, sliceRows: u32, position: usize): u32 {
  let slices: u32 = 0;
  for (let i: u32 = 0; i < count; i++, position += 8) {
    const rows = load<u32>(position, 4);
    if (rows != 0) slices += (rows - 1) / sliceRows + 1;
  }
  return slices;
}

/**
 * S_SLICE and S_FORWARD_SLICE: in round j every peer's j-th slice, peers in the order local, local + 1, … modulo
 * count: the i-th slice of a round goes from peer r to peer r + i, so no two peers start with the same one. Peer i is
 * rank or node first + i.
 */
export function fillSlices(
  local: u32,
  count: u32,
  first: u32,
  sliceRows: u32,
  position: usize,
  slices: usize,
  n: u32,
): void {
  const end = slices + <usize>n * (SLICE_WORDS << 2);
  for (let done: u32 = 0; slices < end; done += sliceRows) {
    for (let i: u32 = 0; i < count; i++) {
      const peer = local + i < count ? local + i : local + i - count;
      const rows = load<u32>(position + ((<usize>peer) << 3), 4);
      if (done >= rows) continue;
      store<u32>(slices, first + peer);
      store<u32>(slices, load<u32>(position + ((<usize>peer) << 3)) + done, 4);
      store<u32>(slices, rows - done < sliceRows ? rows - done : sliceRows, 8);
      slices += SLICE_WORDS << 2;
    }
  }
}
