// Hierarchical plans: one row a token and remote node, to that node's forwarder, and what the forwarder does with it.

/**
 * Rows that a rank sends to each node, its own one included: one a token. What cannot be predicted (whether a token
 * was at a node before) is computed, not branched on: that is three times faster.
 *
 * @param home     u32[instances], node << 16 | rank
 * @param left     u32[instances], entries of each run that are kept, consumed; what follows them is dropped
 * @param stamp    u32[nodes], zeroed
 * @param nodeRows u32[nodes], zeroed, out: tokens with a kept entry there
 */
export function countNodeRows(
  instances: usize,
  tokens: u32,
  topk: u32,
  masked: u32,
  home: usize,
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
      const at = (<usize>(load<u32>(home + ((<usize>instance) << 2)) >> 16)) << 2;
      store<u32>(nodeRows + at, load<u32>(nodeRows + at) + u32(load<u32>(stamp + at) != token));
      store<u32>(stamp + at, token);
    }
  }
}

// The state of one node while a rank's tokens pass, 32 bytes, written by the host before fillForward:
/** u32: token + 1 of the last row. */
const STAMP: usize = 0;
/** u32: next forwarded row. */
const NEXT_ROW: usize = 4;
/** u32: next distributed entry. */
const NEXT_ENTRY: usize = 8;
/** u32: first distributed entry of the last row. */
const ROW_ENTRY: usize = 12;
/** u32: the rank that forwards there. */
const FORWARDER: usize = 16;
/** u32: staging row - forwarded row (wraps). */
const STAGE: usize = 20;

/**
 * S_FORWARD_TOKEN, S_FORWARD_TARGET, S_DISTRIBUTE_OFFSET and S_DISTRIBUTE_ENTRY of one rank.
 *
 * A node's rows follow one another by token and their entries by (token, k), the order in which combine adds them.
 * The landing slot of a row is the lowest of its slots at the forwarder.
 *
 * @param home  u32[instances], node << 16 | rank
 * @param nodes u32[8 x nodes], the state above: NEXT_ROW, NEXT_ENTRY, FORWARDER and STAGE filled in, the rest zero
 * @returns rows that have to be staged, because their forwarder hosts none of the token's experts
 */
export function fillForward(
  entryInstance: usize,
  entrySlot: usize,
  tokens: u32,
  topk: u32,
  home: usize,
  ownNode: u32,
  nodes: usize,
  forwardToken: usize,
  forwardTarget: usize,
  distributeOffset: usize,
  distributeEntry: usize,
): u32 {
  let staged: u32 = 0;
  let entry: u32 = 0;
  for (let token: u32 = 0; token < tokens; token++) {
    for (let k: u32 = 0; k < topk; k++, entry++) {
      const slot = load<i32>(entrySlot + ((<usize>entry) << 2));
      if (slot < 0) continue;
      const instance = <u32>load<u16>(entryInstance + ((<usize>entry) << 1));
      const host = load<u32>(home + ((<usize>instance) << 2));
      if (host >> 16 == ownNode) continue;
      const node = nodes + ((<usize>(host >> 16)) << 5);
      const at = load<u32>(node, NEXT_ENTRY);
      store<u32>(node, at + 1, NEXT_ENTRY);
      // Whether this is the token's first entry at the node cannot be predicted, so both cases store alike.
      const isNew = load<u32>(node, STAMP) != token + 1;
      store<u32>(node, token + 1, STAMP);
      const row = load<u32>(node, NEXT_ROW) - u32(!isNew);
      store<u32>(node, row + 1, NEXT_ROW);
      const first = select<u32>(at, load<u32>(node, ROW_ENTRY), isNew);
      store<u32>(node, first, ROW_ENTRY);
      store<u32>(forwardToken + ((<usize>row) << 2), token);
      store<u32>(distributeOffset + ((<usize>row) << 2), first);
      const target = forwardTarget + ((<usize>row) << 2);
      const before = select<i32>(~(<i32>(load<u32>(node, STAGE) + row)), load<i32>(target), isNew);
      const landed = (host & 0xffff) == load<u32>(node, FORWARDER);
      // As unsigned numbers staging rows lie above all slots, so one comparison finds the lowest landing slot.
      const after = select<i32>(slot, before, landed && <u32>slot < <u32>before);
      store<i32>(target, after);
      staged += u32(isNew) - u32(before < 0 && after >= 0);
      store<u32>(distributeEntry + ((<usize>at) << 2), entry);
    }
  }
  return staged;
}
