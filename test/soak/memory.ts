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
  /** Bytes by which the median of the last third of the time exceeds that of the second; the first one warms up. */
  readonly growth: number;
  readonly limit: number;
  readonly samples: number;
  /** Medians of each tenth of the time, bytes. */
  readonly trend: readonly number[];
}

/** Samples of resident memory in use, after a garbage collection. Needs --expose-gc. */
export class MemoryWatch {
  readonly #start: number;
  readonly #end: number;
  readonly #samples: { readonly at: number; readonly bytes: number }[] = [];
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
    const at = (now - this.#start) / (this.#end - this.#start);
    this.#samples.push({ at: Math.min(at, 1 - Number.EPSILON), bytes: usedBytes() });
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
