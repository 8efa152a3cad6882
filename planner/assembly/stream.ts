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
 * S_SEND_ENTRY: every kept entry at its place in the stream.
 *
 * @param stream u32[2 x instances], from fillSendTable; its second word becomes the last token + 1
 * @returns the number of segments: a row continues one if the token before it went to the same instance
 */
export function fillStream(
  instances: usize,
  slots: usize,
  tokens: u32,
  topk: u32,
  stream: usize,
  sendEntry: usize,
): u32 {
  let entry: u32 = 0;
  let segments: u32 = 0;
  for (let token: u32 = 0; token < tokens; token++) {
    for (let k: u32 = 0; k < topk; k++, entry++) {
      const slot = load<i32>(slots + ((<usize>entry) << 2));
      if (slot < 0) continue;
      const at = stream + ((<usize>load<u16>(instances + ((<usize>entry) << 1))) << 3);
      // A run's first row always starts a segment: its word is 0, and token 0 must not look like a neighbour.
      if (token == 0 || load<u32>(at, 4) != token) segments++;
      store<u32>(at, token + 1, 4);
      store<u32>(sendEntry + ((<usize>(<u32>slot + load<u32>(at))) << 2), entry);
    }
  }
  return segments;
}

function peerRows(peer: u32, rankFirst: usize, sendRows: usize): u32 {
  const end = load<u32>(rankFirst + ((<usize>peer + 1) << 2));
  let rows: u32 = 0;
  for (let i = load<u32>(rankFirst + ((<usize>peer) << 2)); i < end; i++) {
    rows += load<u32>(sendRows + ((<usize>i) << 2));
  }
  return rows;
}

function alignedSlices(rows: u32, sliceRows: u32): u32 {
  return rows == 0 ? 0 : (rows - 1) / sliceRows + 1;
}

/** Number of slices; position[p] = {first stream row, rows} of every peer, for fillSlices. */
export function countSlices(
  ranks: u32,
  rankFirst: usize,
  sendRows: usize,
  sliceRows: u32,
  position: usize,
): u32 {
  let slices: u32 = 0;
  let row: u32 = 0;
  for (let peer: u32 = 0; peer < ranks; peer++) {
    const rows = peerRows(peer, rankFirst, sendRows);
    store<u32>(position + ((<usize>peer) << 3), row);
    store<u32>(position + ((<usize>peer) << 3), rows, 4);
    slices += alignedSlices(rows, sliceRows);
    row += rows;
  }
  return slices;
}

/**
 * S_SLICE: in round j every peer's j-th slice, peers in the order rank, rank + 1, …, so that in step i of a
 * round rank r sends to r + i and no two ranks send to the same peer.
 */
export function fillSlices(
  rank: u32,
  ranks: u32,
  sliceRows: u32,
  position: usize,
  slices: usize,
  n: u32,
): void {
  const end = slices + <usize>n * (SLICE_WORDS << 2);
  for (let done: u32 = 0; slices < end; done += sliceRows) {
    for (let step: u32 = 0; step < ranks; step++) {
      const peer = rank + step < ranks ? rank + step : rank + step - ranks;
      const rows = load<u32>(position + ((<usize>peer) << 3), 4);
      if (done >= rows) continue;
      store<u32>(slices, peer);
      store<u32>(slices, load<u32>(position + ((<usize>peer) << 3)) + done, 4);
      store<u32>(slices, rows - done < sliceRows ? rows - done : sliceRows, 8);
      slices += SLICE_WORDS << 2;
    }
  }
}
