// A small deterministic fit: compass search, which halves its step if no neighbor is better, from several starts.

/** A parameter to fit, searched on its own scale. */
export interface Parameter {
  readonly name: string;
  /** Where to start; with several parameters, from every combination. */
  readonly starts: readonly number[];
  readonly min: number;
  readonly max: number;
  /** Rates and times are changed by factors, fractions by differences. */
  readonly scale: 'factor' | 'difference';
}

const FIRST_STEP = 0.5;
const LAST_STEP = 1 / 256;

function moved({ scale, min, max }: Parameter, value: number, step: number): number {
  const next = scale === 'factor' ? value * Math.exp(step) : value + step;
  return Math.min(max, Math.max(min, next));
}

function search(
  parameters: readonly Parameter[],
  start: readonly number[],
  cost: (values: readonly number[]) => number,
): { values: number[]; cost: number } {
  const values = [...start];
  let best = cost(values);
  const improve = (i: number, step: number): boolean => {
    const before = values[i]!;
    values[i] = moved(parameters[i]!, before, step);
    const found = cost(values);
    if (found < best * (1 - 1e-9)) {
      best = found;
      return true;
    }
    values[i] = before;
    return false;
  };
  for (let step = FIRST_STEP; step >= LAST_STEP; step /= 2) {
    let improved = true;
    while (improved) {
      improved = false;
      for (const i of parameters.keys()) improved = improve(i, step) || improve(i, -step) || improved;
    }
  }
  return { values, cost: best };
}

/** The values of least `cost` that are found. The same arguments give the same result, bit for bit. */
export function fitParameters(
  parameters: readonly Parameter[],
  cost: (values: readonly number[]) => number,
): number[] {
  const starts = parameters.reduce<number[][]>(
    (lists, parameter) => lists.flatMap((list) => parameter.starts.map((value) => [...list, value])),
    [[]],
  );
  return starts
    .map((start) => search(parameters, start, cost))
    .reduce((best, found) => (found.cost < best.cost ? found : best)).values;
}
