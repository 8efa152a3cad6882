// The order of stores inside tiles of tokens: a schedule for executors that hold a tile of rows at a time.

/** Key of an entry without a slot: after all others. */
const NOWHERE: u64 = u64.MAX_VALUE;

/**
 * S_TILE_ORDER: for each tile a permutation of its entries by (instance, slot), masked and dropped ones last, in
 * ascending order.
 *
 * @param tile entries of a tile, 1..256; the last one may have fewer
 * @param keys u64[tile], scratch
 */
export function fillTileOrder(
  entryInstance: usize,
  entrySlot: usize,
  entries: u32,
  tile: u32,
  keys: usize,
  order: usize,
): void {
  for (let first: u32 = 0; first < entries; first += tile) {
    const count = entries - first < tile ? entries - first : tile;
    for (let i: u32 = 0; i < count; i++) {
      const slot = load<i32>(entrySlot + ((<usize>(first + i)) << 2));
      const instance = <u64>load<u16>(entryInstance + ((<usize>(first + i)) << 1));
      const key = slot < 0 ? NOWHERE : (instance << 32) | <u64>slot;
      // Insertion: tiles are short.
      let at = i;
      for (; at > 0 && load<u64>(keys + ((<usize>(at - 1)) << 3)) > key; at--) {
        store<u64>(keys + ((<usize>at) << 3), load<u64>(keys + ((<usize>(at - 1)) << 3)));
        store<u8>(order + at, load<u8>(order + at - 1));
      }
      store<u64>(keys + ((<usize>at) << 3), key);
      store<u8>(order + at, i);
    }
    order += count;
  }
}
