/** Elements of arrays in the planner's Wasm memory, and their bytes. A block is one of the blocks of jobs.ts. */
export const ELEMENT_BYTES = { u8: 1, u16: 2, u32: 4, i32: 4, u64: 8, block: 4 } as const;
export type Element = keyof typeof ELEMENT_BYTES;

declare const element: unique symbol;
/** Address of an array in the planner's Wasm memory. */
export type Addr<T extends Element> = number & { readonly [element]: T };

/** What planner/assembly exports; results of u32 functions arrive as i32. */
export interface PlannerExports {
  memory: WebAssembly.Memory;
  heapBase(): number;
  /** `ids` is an array of the type `idType`; `job` is a ROUTE block. */
  route(idType: number, ids: number, job: Addr<'block'>): number;
  slotTable(): Addr<'u32'>;
  countInstances(instances: Addr<'u16'>, n: number): void;
  assignSlots(instances: Addr<'u16'>, n: number, slots: Addr<'i32'>): void;
  addCounts(sums: Addr<'u32'>, counts: Addr<'u32'>, n: number): number;
  /** `group` is a GROUP block, here and below. */
  layBlocks(group: Addr<'block'>): number;
  /** `job` is a SEND block. */
  fillSendTable(group: Addr<'block'>, job: Addr<'block'>): number;
  fillRunTable(
    group: Addr<'block'>,
    first: number,
    local: number,
    runRow: Addr<'u32'>,
    runRows: Addr<'u32'>,
  ): void;
  fillReceive(
    group: Addr<'block'>,
    rank: number,
    first: number,
    local: number,
    expertOffset: Addr<'u32'>,
    expertRows: Addr<'u32'>,
  ): void;
  markMasked(instances: Addr<'u16'>, n: number, masked: number, slots: Addr<'i32'>): number;
  markDropped(
    instances: Addr<'u16'>,
    n: number,
    masked: number,
    sendRow: Addr<'u32'>,
    sendRows: Addr<'u32'>,
    slots: Addr<'i32'>,
  ): number;
  fillSendOrder(
    instances: Addr<'u16'>,
    slots: Addr<'i32'>,
    n: number,
    direct: number,
    directFirst: number,
    directEnd: number,
    shift: Addr<'u32'>,
    sendEntry: Addr<'u32'>,
  ): void;
  peerPositions(
    first: number,
    count: number,
    rankFirst: Addr<'u32'>,
    sendRows: Addr<'u32'>,
    position: Addr<'u32'>,
  ): void;
  countNodeRows(
    instances: Addr<'u16'>,
    tokens: number,
    topk: number,
    masked: number,
    owners: Addr<'u32'>,
    left: Addr<'u32'>,
    stamp: Addr<'u32'>,
    nodeRows: Addr<'u32'>,
  ): void;
  /** `job` is a FORWARD block. */
  fillForward(job: Addr<'block'>): number;
  fillTileOrder(
    entryInstance: Addr<'u16'>,
    entrySlot: Addr<'i32'>,
    entries: number,
    tile: number,
    keys: Addr<'u64'>,
    order: Addr<'u8'>,
  ): void;
  countSlices(count: number, sliceRows: number, position: Addr<'u32'>): number;
  fillSlices(
    local: number,
    count: number,
    first: number,
    sliceRows: number,
    position: Addr<'u32'>,
    slices: Addr<'u32'>,
    n: number,
  ): void;
}
