/** What planner/assembly exports; addresses and sizes are u32, results of u32 functions arrive as i32. */
export interface PlannerExports {
  memory: WebAssembly.Memory;
  heapBase(): number;
  /** `job` is the address of the eleven words that assembly/route.ts names. */
  route(idType: number, ids: number, job: number): number;
  slotTable(): number;
  countInstances(instances: number, n: number): void;
  assignSlots(instances: number, n: number, slots: number): void;
  addCounts(sums: number, counts: number, n: number): number;
  layBlocks(
    ranks: number,
    rankFirst: number,
    totals: number,
    capacity: number,
    align: number,
    blockRow: number,
    recvRows: number,
  ): number;
  fillSendTable(
    instances: number,
    before: number,
    own: number,
    blockRow: number,
    capacity: number,
    sendRow: number,
    sendRows: number,
    next: number,
    stream: number,
    directFirst: number,
    directEnd: number,
    direct: number,
  ): number;
  fillRunTable(
    ranks: number,
    instances: number,
    first: number,
    local: number,
    counts: number,
    blockRow: number,
    capacity: number,
    runRow: number,
    runRows: number,
  ): void;
  fillReceive(
    first: number,
    local: number,
    blockRow: number,
    totals: number,
    capacity: number,
    recvRows: number,
    expertOffset: number,
    expertRows: number,
  ): void;
  markMasked(instances: number, n: number, masked: number, slots: number): number;
  markDropped(
    instances: number,
    n: number,
    masked: number,
    sendRow: number,
    sendRows: number,
    slots: number,
  ): number;
  fillStream(
    instances: number,
    slots: number,
    n: number,
    direct: number,
    directFirst: number,
    directEnd: number,
    stream: number,
    sendEntry: number,
  ): void;
  peerPositions(first: number, count: number, rankFirst: number, sendRows: number, position: number): void;
  countNodeRows(
    instances: number,
    tokens: number,
    topk: number,
    masked: number,
    home: number,
    left: number,
    stamp: number,
    nodeRows: number,
  ): void;
  fillForward(
    entryInstance: number,
    entrySlot: number,
    tokens: number,
    topk: number,
    home: number,
    ownNode: number,
    nodes: number,
    forwardToken: number,
    forwardTarget: number,
    distributeOffset: number,
    distributeEntry: number,
  ): number;
  fillTileOrder(
    entryInstance: number,
    entrySlot: number,
    entries: number,
    tile: number,
    keys: number,
    order: number,
  ): void;
  countSlices(count: number, sliceRows: number, position: number): number;
  fillSlices(
    own: number,
    count: number,
    first: number,
    sliceRows: number,
    position: number,
    slices: number,
    n: number,
  ): void;
}
