// Named weights in one array, and Adam.

const BETA1 = 0.9;
const BETA2 = 0.999;
const EPSILON = 1e-8;

/** Sizes of the weights, by name. */
export type Sizes<Name extends string> = Readonly<Record<Name, number>>;

/** Weights in one array, in the order of their sizes; a gradient is an array of the same layout. */
export class Parameters<Name extends string> {
  readonly values: Float32Array;
  readonly #ranges: Readonly<Record<string, readonly [number, number]>>;
  readonly #mean: Float32Array;
  readonly #square: Float32Array;
  #step = 0;

  constructor(sizes: Sizes<Name>) {
    let end = 0;
    const ranges = Object.entries<number>(sizes).map(([name, size]) => [name, [end, (end += size)]] as const);
    this.#ranges = Object.fromEntries(ranges);
    this.values = new Float32Array(end);
    this.#mean = new Float32Array(end);
    this.#square = new Float32Array(end);
  }

  /** The weights of a name. */
  at(name: Name): Float32Array {
    return this.part(this.values, name);
  }

  /** The part of a gradient that belongs to a name. */
  part(gradient: Float32Array, name: Name): Float32Array {
    return gradient.subarray(...this.#ranges[name]!);
  }

  /** Uniform numbers of the variance 2 / inputs, which suits relu. */
  fill(name: Name, inputs: number, random: () => number): void {
    const bound = Math.sqrt(6 / inputs);
    const values = this.at(name);
    for (let i = 0; i < values.length; i++) values[i] = (2 * random() - 1) * bound;
  }

  /** One step of Adam (Kingma and Ba, algorithm 1), element by element. */
  update(gradient: Float32Array, rate: number): void {
    this.#step++;
    const meanScale = 1 / (1 - BETA1 ** this.#step);
    const squareScale = 1 / (1 - BETA2 ** this.#step);
    for (let i = 0; i < this.values.length; i++) {
      const slope = gradient[i]!;
      this.#mean[i] = BETA1 * this.#mean[i]! + (1 - BETA1) * slope;
      this.#square[i] = BETA2 * this.#square[i]! + (1 - BETA2) * slope * slope;
      const spread = Math.sqrt(this.#square[i]! * squareScale) + EPSILON;
      this.values[i]! -= (rate * this.#mean[i]! * meanScale) / spread;
    }
  }
}
