// The planner's Wasm: free functions over addresses. The caller (planner/planner.ts) lays out one arena above
// `heapBase`, sizes it before the call, and passes addresses; nothing here allocates or grows memory.

export { countNodeRows, fillForward, forwardRows } from './forward';
export { chooseInstances } from './quotas';
export { route } from './route';
export {
  countSlices,
  fillSendOrder,
  fillSlices,
  markDropped,
  markMasked,
  peerPositions,
} from './sendOrder';
export { assignSlots, countInstances, slotTable } from './slots';
export { addCounts, fillReceive, fillRunTable, fillSendTable, layBlocks } from './tables';
export { fillTileOrder } from './tiles';

/** First address that the caller may use. */
export function heapBase(): usize {
  return __heap_base;
}
