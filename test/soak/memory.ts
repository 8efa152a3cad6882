// Whether resident memory grows while one thing is done again and again.

/** More than the allocator's own ups and downs, and less than what a leak of a few kilobytes a case takes. */
const LIMIT_BYTES = 8 << 20;
const SAMPLE_MS = 100;

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;
}

/**
 * Samples of resident memory after a garbage collection, in three thirds of a time: the first one warms up, and the
 * medians of the other two are compared. Needs --expose-gc.
 */
export class MemoryWatch {
  readonly #start: number;
  readonly #end: number;
  readonly #thirds: number[][] = [[], [], []];
  #next = 0;

  /** Times on the clock of performance.now(). */
  constructor(start: number, end: number) {
    this.#start = start;
    this.#end = end;
  }

  /** Call it between cases; takes a sample every 100 ms. */
  sample(): void {
    const now = performance.now();
    if (now < this.#next) return;
    this.#next = now + SAMPLE_MS;
    globalThis.gc!();
    const third = Math.floor((3 * (now - this.#start)) / (this.#end - this.#start));
    this.#thirds[Math.min(third, 2)]!.push(process.memoryUsage.rss());
  }

  verdict(): { readonly growth: number; readonly limit: number; readonly samples: number } {
    const [, second, last] = this.#thirds as [number[], number[], number[]];
    return {
      growth: median(last) - median(second),
      limit: LIMIT_BYTES,
      samples: second.length + last.length,
    };
  }
}
