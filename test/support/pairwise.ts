// All-pairs covering: a short list of cases in which every pair of values of every two factors occurs together.

type Factors = Record<string, readonly unknown[]>;
export type Case<F extends Factors> = { [K in keyof F]: F[K][number] };

/** Greedy and deterministic: each case starts from an uncovered pair and takes, factor by factor, the best value. */
export function pairwise<const F extends Factors>(factors: F): Case<F>[] {
  const names = Object.keys(factors);
  const pairKey = (a: number, i: number, b: number, j: number) =>
    a < b ? `${a}:${i}|${b}:${j}` : `${b}:${j}|${a}:${i}`;
  const open = new Set<string>();
  names.forEach((first, a) => {
    names.forEach((second, b) => {
      if (b <= a) return;
      factors[first]!.forEach((_, i) => {
        factors[second]!.forEach((_, j) => {
          open.add(pairKey(a, i, b, j));
        });
      });
    });
  });
  const cases: Case<F>[] = [];
  while (open.size > 0) {
    const chosen = new Map<number, number>();
    const [seed] = open;
    for (const part of seed!.split('|')) {
      const [factor, value] = part.split(':').map(Number);
      chosen.set(factor!, value!);
    }
    names.forEach((name, factor) => {
      if (chosen.has(factor)) return;
      let best = 0;
      let bestGain = -1;
      factors[name]!.forEach((_, value) => {
        let gain = 0;
        for (const [other, i] of chosen) if (open.has(pairKey(factor, value, other, i))) gain++;
        if (gain > bestGain) [best, bestGain] = [value, gain];
      });
      chosen.set(factor, best);
    });
    for (const [a, i] of chosen) for (const [b, j] of chosen) if (a !== b) open.delete(pairKey(a, i, b, j));
    cases.push(
      Object.fromEntries(names.map((name, factor) => [name, factors[name]![chosen.get(factor)!]])) as Case<F>,
    );
  }
  return cases;
}
