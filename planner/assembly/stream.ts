// A source rank's stream and its schedule: entries by (instance, token, k), cut into slices.

import { SLICE_WORDS, SLOT_DROPPED, SLOT_MASKED } from '../layout';

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

/**
 * S_SEND_ENTRY: every kept entry of the instances [directFirst, directEnd) at its place in the stream.
 *
 * @param stream u32[2 x instances], from fillSendTable; its second word becomes the token after the last one
 * @returns the number of segments: a row continues one if the token before it went to the same instance
 */
export function fillStream(
  instances: usize,
  slots: usize,
  tokens: u32,
  topk: u32,
  directFirst: u32,
  directEnd: u32,
  stream: usize,
  sendEntry: usize,
): u32 {
  const direct = directEnd - directFirst;
  let entry: u32 = 0;
  let segments: u32 = 0;
  for (let token: u32 = 0; token < tokens; token++) {
    for (let k: u32 = 0; k < topk; k++, entry++) {
      const slot = load<i32>(slots + ((<usize>entry) << 2));
      const instance = <u32>load<u16>(instances + ((<usize>entry) << 1));
      if (slot < 0 || instance - directFirst >= direct) continue;
      const at = stream + ((<usize>instance) << 3);
      // Added, not branched on: which rows continue a segment cannot be predicted.
      segments += u32(load<u32>(at, 4) != token);
      store<u32>(at, token + 1, 4);
      store<u32>(sendEntry + ((<usize>(<u32>slot + load<u32>(at))) << 2), entry);
    }
  }
  return segments;
}

/** position[i] = {first stream row, rows} of the ranks first, first + 1, …, `count` of them, for the slices. */
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
 * S_SLICE and S_FORWARD_SLICE: in round j every peer's j-th slice, peers in the order own, own + 1, … modulo count,
 * so that in step i of a round peer r sends to r + i and no two send to the same one. Peer i is named first + i.
 */
export function fillSlices(
  own: u32,
  count: u32,
  first: u32,
  sliceRows: u32,
  position: usize,
  slices: usize,
  n: u32,
): void {
  const end = slices + <usize>n * (SLICE_WORDS << 2);
  for (let done: u32 = 0; slices < end; done += sliceRows) {
    for (let step: u32 = 0; step < count; step++) {
      const peer = own + step < count ? own + step : own + step - count;
      const rows = load<u32>(position + ((<usize>peer) << 3), 4);
      if (done >= rows) continue;
      store<u32>(slices, first + peer);
      store<u32>(slices, load<u32>(position + ((<usize>peer) << 3)) + done, 4);
      store<u32>(slices, rows - done < sliceRows ? rows - done : sliceRows, 8);
      slices += SLICE_WORDS << 2;
    }
  }
}
