/** Elements of arrays in the planner's Wasm memory, and their bytes. A block is one of the blocks of jobs.ts. */
export const ELEMENT_BYTES = { u8: 1, u16: 2, u32: 4, i32: 4, u64: 8, block: 4 } as const;
export type Element = keyof typeof ELEMENT_BYTES;

declare const element: unique symbol;
/** Address of an array in the planner's Wasm memory. */
export type Addr<T extends Element> = number & { readonly [element]: T };

type U8 = Addr<'u8'>;
type U16 = Addr<'u16'>;
type U32 = Addr<'u32'>;
type I32 = Addr<'i32'>;
type U64 = Addr<'u64'>;
type Block = Addr<'block'>;

/** What planner/assembly exports; results of u32 functions arrive as i32. */
export interface PlannerExports {
  memory: WebAssembly.Memory;
  heapBase(): number;
  /** `ids` is an array of the type `idType`; `job` is a ROUTE block. */
  route(idType: number, ids: number, job: Block): number;
  /** `job` is a QUOTA block. */
  chooseInstances(entries: U16, n: number, job: Block): void;
  slotTable(): U32;
  countInstances(instances: U16, n: number): void;
  assignSlots(instances: U16, n: number, slots: I32): void;
  addCounts(sums: U32, counts: U32, n: number): number;
  /** `group` is a GROUP block, here and below. */
  layBlocks(group: Block): number;
  /** `job` is a SEND block. */
  fillSendTable(group: Block, job: Block): number;
  fillRunTable(group: Block, first: number, local: number, runRow: U32, runRows: U32): void;
  fillReceive(
    group: Block,
    rank: number,
    first: number,
    local: number,
    expertOffset: U32,
    expertRows: U32,
  ): void;
  markMasked(instances: U16, n: number, masked: number, slots: I32): number;
  markDropped(instances: U16, n: number, masked: number, sendRow: U32, sendRows: U32, slots: I32): number;
  fillSendOrder(
    instances: U16,
    slots: I32,
    n: number,
    direct: number,
    directFirst: number,
    directEnd: number,
    shift: U32,
    sendEntry: U32,
  ): void;
  peerPositions(first: number, count: number, rankFirst: U32, sendRows: U32, position: U32): void;
  countNodeRows(
    instances: U16,
    tokens: number,
    topk: number,
    masked: number,
    owners: U32,
    left: U32,
    stamp: U32,
    nodeRows: U32,
  ): void;
  /** `job` is a FORWARD block. */
  fillForward(job: Block): number;
  fillTileOrder(
    entryInstance: U16,
    entrySlot: I32,
    entries: number,
    tile: number,
    keys: U64,
    order: U8,
  ): void;
  countSlices(count: number, sliceRows: number, position: U32): number;
  fillSlices(
    local: number,
    count: number,
    first: number,
    sliceRows: number,
    position: U32,
    slices: U32,
    n: number,
  ): void;
}
