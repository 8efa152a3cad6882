// Sums over all blocks of a batch, known to every rank, in the order of the blocks however many ranks hold them: an
// exchange like any other, in which every block is a token whose experts are all ranks.

import type { Exchange, Group } from 'fusco';

const F32_BYTES = 4;

/** Adds up one row of float32 per block. */
export class AllSum implements Disposable {
  /** f32 [blocks of the rank, width] per local rank: what this rank adds. */
  readonly rows: readonly Float32Array[];
  readonly #exchange: Exchange;
  readonly #received: readonly Float32Array[];
  readonly #sums: readonly Float32Array[];

  private constructor(exchange: Exchange, width: number) {
    const sized = (counts: readonly number[]) => counts.map((count) => new Float32Array(count * width));
    this.#exchange = exchange;
    this.rows = sized(exchange.tokens);
    this.#received = sized(exchange.recvRows);
    this.#sums = sized(exchange.localRanks.map(() => 1));
  }

  /** @param blocks of each rank */
  static async open(group: Group, blocks: number, width: number): Promise<AllSum> {
    const { ranks } = group;
    const everyRank = Int32Array.from({ length: blocks * ranks }, (_, entry) => entry % ranks);
    const tables = group.localRanks.map(() => ({ ids: everyRank, tokens: blocks, topk: ranks }));
    const plan = await group.planLocal(tables, { experts: ranks, hidden: width, dtype: 'f32' });
    return new AllSum(await group.prepare(plan), width);
  }

  /** The sum of all ranks' rows, per local rank; from +0, blocks ascending. It stays until the next call. */
  async add(): Promise<readonly Float32Array[]> {
    const width = this.#sums[0]!.length;
    await this.#exchange.dispatch({
      payloads: [{ rowBytes: F32_BYTES * width, from: this.rows, to: this.#received }],
    });
    this.#received.forEach((received, i) => {
      const sum = this.#sums[i]!.fill(0);
      for (let at = 0; at < received.length; at += width) {
        for (let j = 0; j < width; j++) sum[j]! += received[at + j]!;
      }
    });
    return this.#sums;
  }

  [Symbol.dispose](): void {
    this.#exchange.close();
  }
}
