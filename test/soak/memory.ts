// Whether resident memory grows while one thing is done again and again.

/** Several times what sound runs show, seconds and minutes long, and less than a leak of a few kilobytes a case takes. */
const LIMIT_BYTES = 3 << 20;
const SAMPLE_MS = 100;
const TENTHS = 10;

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;
}

/** Resident memory, less what the JavaScript engine keeps of it without using it. */
function usedBytes(): number {
  const { rss, heapTotal, heapUsed } = process.memoryUsage();
  return rss - heapTotal + heapUsed;
}

export interface MemoryVerdict {
  /** Bytes by which the median of the last third of the run exceeds that of the second; the first one warms up. */
  readonly growth: number;
  readonly limit: number;
  readonly samples: number;
  /** Medians of each tenth of the run, bytes. */
  readonly trend: readonly number[];
}

/** Samples of resident memory in use, after a garbage collection. Needs --expose-gc. */
export class MemoryWatch {
  readonly #samples: { readonly at: number; readonly bytes: number }[] = [];
  #next = 0;

  /**
   * Call it between cases; takes a sample every 100 ms.
   *
   * @param progress how much of the run is over, from 0 to 1
   */
  sample(progress: number): void {
    const now = performance.now();
    if (now < this.#next) return;
    this.#next = now + SAMPLE_MS;
    globalThis.gc!();
    this.#samples.push({ at: Math.min(progress, 1 - Number.EPSILON), bytes: usedBytes() });
  }

  verdict(): MemoryVerdict {
    const part = (index: number, parts: number) =>
      median(this.#samples.filter(({ at }) => Math.floor(at * parts) === index).map(({ bytes }) => bytes));
    return {
      growth: part(2, 3) - part(1, 3),
      limit: LIMIT_BYTES,
      samples: this.#samples.length,
      trend: Array.from({ length: TENTHS }, (_, tenth) => part(tenth, TENTHS)),
    };
  }
}
