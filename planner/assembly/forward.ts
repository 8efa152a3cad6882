// Hierarchical plans: one row for each token and remote node, sent to that node's forwarder, and what the forwarder does
// with it.

import * as J from '../jobs';

/**
 * Rows that a rank sends to each node, including the local node: one for each token. A branch on whether a token was at a
 * node before cannot be predicted, so the result is computed without a branch, which is three times as fast.
 *
 * @param owners   u32[instances], node << 16 | rank
 * @param left     u32[instances], entries of each run that are kept, consumed; what follows them is dropped
 * @param stamp    u32[nodes], zeroed
 * @param nodeRows u32[nodes], zeroed, out: tokens with a kept entry there
 */
export function countNodeRows(
  instances: usize,
  tokens: u32,
  topk: u32,
  masked: u32,
  owners: usize,
  left: usize,
  stamp: usize,
  nodeRows: usize,
): void {
  for (let token: u32 = 1; token <= tokens; token++) {
    for (let k: u32 = 0; k < topk; k++, instances += 2) {
      const instance = <u32>load<u16>(instances);
      if (instance == masked) continue;
      const run = left + ((<usize>instance) << 2);
      const rest = load<u32>(run);
      if (rest == 0) continue;
      store<u32>(run, rest - 1);
      const at = (<usize>(load<u32>(owners + ((<usize>instance) << 2)) >> 16)) << 2;
      store<u32>(nodeRows + at, load<u32>(nodeRows + at) + u32(load<u32>(stamp + at) != token));
      store<u32>(stamp + at, token);
    }
  }
}

/**
 * S_FORWARD_TOKEN, S_FORWARD_TARGET, S_DISTRIBUTE_OFFSET and S_DISTRIBUTE_ENTRY of one rank.
 *
 * A node's rows follow one another by token and their entries by (token, k), the order in which combine adds them.
 * The landing slot of a row is the lowest of its slots at the forwarder.
 *
 * @param job the FORWARD block
 * @returns rows that need a landing row, because their forwarder hosts none of the token's experts
 */
export function fillForward(job: usize): u32 {
  const forwarded = listForwarded(
    load<usize>(job, J.FORWARD_ENTRY_INSTANCE << 2),
    load<usize>(job, J.FORWARD_ENTRY_SLOT << 2),
    load<u32>(job, J.FORWARD_TOKENS << 2),
    load<u32>(job, J.FORWARD_TOPK << 2),
    load<usize>(job, J.FORWARD_OWNER << 2),
    load<u32>(job, J.FORWARD_LOCAL_NODE << 2),
    load<usize>(job, J.FORWARD_LIST << 2),
  );
  return forwardRows(
    load<usize>(job, J.FORWARD_LIST << 2),
    forwarded,
    load<usize>(job, J.FORWARD_NODES << 2),
    load<usize>(job, J.FORWARD_TOKEN << 2),
    load<usize>(job, J.FORWARD_TARGET << 2),
    load<usize>(job, J.FORWARD_OFFSET << 2),
    load<usize>(job, J.FORWARD_ENTRY << 2),
  );
}

/** Bytes of what forwardRows needs of an entry: u32 entry, token, owner, slot. */
const LISTED_BYTES: usize = J.FORWARD_LISTED_WORDS << 2;

/**
 * The kept entries of other nodes, in order. Which ones these are cannot be predicted, so every entry is written, and
 * kept or overwritten by the next one. Returns their number.
 */
function listForwarded(
  entryInstance: usize,
  entrySlot: usize,
  tokens: u32,
  topk: u32,
  owners: usize,
  localNode: u32,
  list: usize,
): u32 {
  const start = list;
  let entry: u32 = 0;
  for (let token: u32 = 0; token < tokens; token++) {
    for (let k: u32 = 0; k < topk; k++, entry++, entryInstance += 2, entrySlot += 4) {
      const slot = load<i32>(entrySlot);
      const owner = load<u32>(owners + ((<usize>load<u16>(entryInstance)) << 2));
      store<u32>(list, entry);
      store<u32>(list, token, 4);
      store<u32>(list, owner, 8);
      store<i32>(list, slot, 12);
      list += select<usize>(LISTED_BYTES, 0, u32(slot >= 0) & u32(owner >> 16 != localNode));
    }
  }
  return <u32>((list - start) / LISTED_BYTES);
}

/** The loop of fillForward. Exported so that it is not inlined: with its pointers as locals it is 6 % slower. */
export function forwardRows(
  list: usize,
  forwarded: u32,
  nodes: usize,
  forwardToken: usize,
  forwardTarget: usize,
  distributeOffset: usize,
  distributeEntry: usize,
): u32 {
  let staged: u32 = 0;
  const end = list + <usize>forwarded * LISTED_BYTES;
  for (; list < end; list += LISTED_BYTES) {
    const token = load<u32>(list, 4);
    const owner = load<u32>(list, 8);
    const slot = load<i32>(list, 12);
    const node = nodes + <usize>(owner >> 16) * (J.NODE_WORDS << 2);
    const at = load<u32>(node, J.NODE_NEXT_ENTRY << 2);
    store<u32>(node, at + 1, J.NODE_NEXT_ENTRY << 2);
    // Whether this is the token's first entry at the node cannot be predicted, so both cases store the same words.
    const isNew = load<u32>(node, J.NODE_STAMP << 2) != token + 1;
    store<u32>(node, token + 1, J.NODE_STAMP << 2);
    const row = load<u32>(node, J.NODE_NEXT_ROW << 2) - u32(!isNew);
    store<u32>(node, row + 1, J.NODE_NEXT_ROW << 2);
    const first = select<u32>(at, load<u32>(node, J.NODE_ROW_ENTRY << 2), isNew);
    store<u32>(node, first, J.NODE_ROW_ENTRY << 2);
    store<u32>(forwardToken + ((<usize>row) << 2), token);
    store<u32>(distributeOffset + ((<usize>row) << 2), first);
    const target = forwardTarget + ((<usize>row) << 2);
    const before = select<i32>(
      ~(<i32>(load<u32>(node, J.NODE_LANDING << 2) + row)),
      load<i32>(target),
      isNew,
    );
    const landed = (owner & 0xffff) == load<u32>(node, J.NODE_FORWARDER << 2);
    // As unsigned numbers landing rows are above all slots, so one comparison finds the lowest landing slot.
    const after = select<i32>(slot, before, landed && <u32>slot < <u32>before);
    store<i32>(target, after);
    staged += u32(isNew) - u32(before < 0 && after >= 0);
    store<u32>(distributeEntry + ((<usize>at) << 2), load<u32>(list));
  }
  return staged;
}
