// A rank's experts in its receive buffer.

/** One rank's experts: its receive buffer consists of their blocks, one after the other. */
export interface ExpertBlocks {
  readonly rank: number;
  /** u16[local]: logical expert of every block, ascending. */
  readonly experts: Uint16Array;
  /** u32[local + 1]: first row of every block; the last element is the rows of the buffer. */
  readonly expertOffsets: Uint32Array;
  /** u32[local]: real rows of every block; the rest, up to the next offset, is padding of zeros. */
  readonly expertCounts: Uint32Array;
}

/**
 * i32 [recvRows]: for every row the number of its block, -1 in padding; what grouped matrix products over a contiguous
 * layout call m_indices.
 */
export function rowBlocks({ expertOffsets, expertCounts }: ExpertBlocks): Int32Array {
  const blocks = new Int32Array(expertOffsets.at(-1) ?? 0).fill(-1);
  expertCounts.forEach((rows, block) => {
    blocks.fill(block, expertOffsets[block], expertOffsets[block]! + rows);
  });
  return blocks;
}
