// The replica rule `quota-1` as docs/replicas.md states it, with lists of objects and no index tricks. It shares nothing with
// planner/quotas.ts.

interface Replica {
  expert: number;
  rank: number;
  node: number;
  rows: number;
}

export interface QuotaCase {
  ranks: number;
  ranksPerNode: number;
  /** counts[source][expert]. */
  counts: readonly (readonly number[])[];
  /** Ranks of each expert, ascending. */
  hosts: readonly (readonly number[])[];
}

interface Hop {
  from: Replica;
  to: Replica;
}

const total = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0);

/** One pass of steps 2 and 3 with the bound that it starts with; `bound` is the one that it ends with. */
class Pass {
  readonly replicas: Replica[] = [];
  bound: number;
  readonly #case: QuotaCase;

  constructor(given: QuotaCase, bound: number) {
    this.#case = given;
    this.bound = bound;
    given.hosts.forEach((hosts, expert) => {
      const node = (rank: number) => Math.floor(rank / given.ranksPerNode);
      this.replicas.push(...hosts.map((rank) => ({ expert, rank, node: node(rank), rows: 0 })));
    });
    given.hosts.forEach((_, expert) => void this.#startNear(expert));
    for (let round = 0; round < 256 && this.#overloaded().length > 0; round++) this.#round();
  }

  /** Rows for an expert that start on a node. */
  demand(expert: number, node: number): number {
    const { counts, ranksPerNode } = this.#case;
    return total(
      counts.filter((_, rank) => Math.floor(rank / ranksPerNode) === node).map((row) => row[expert]!),
    );
  }

  #startNear(expert: number): void {
    const { counts } = this.#case;
    const replicas = this.replicas.filter((replica) => replica.expert === expert);
    let foreign = total(counts.map((row) => row[expert]!));
    for (const node of new Set(replicas.map((replica) => replica.node))) {
      const group = replicas.filter((replica) => replica.node === node);
      let rest = this.demand(expert, node);
      foreign -= rest;
      for (const replica of group) {
        replica.rows += counts[replica.rank]![expert]!;
        rest -= counts[replica.rank]![expert]!;
      }
      for (let i = 0; i < rest; i++) group[i % group.length]!.rows++;
    }
    for (let i = 0; i < foreign; i++) replicas[i % replicas.length]!.rows++;
  }

  load(rank: number): number {
    return total(this.replicas.filter((replica) => replica.rank === rank).map(({ rows }) => rows));
  }

  #overloaded(): number[] {
    return this.#case.counts.map((_, rank) => rank).filter((rank) => this.load(rank) > this.bound);
  }

  /** What a group holds beyond its demand. */
  #surplus({ expert, node }: Replica): number {
    const group = this.replicas.filter((replica) => replica.expert === expert && replica.node === node);
    return total(group.map(({ rows }) => rows)) - this.demand(expert, node);
  }

  #round(): void {
    if (this.#push(this.#search(true), true)) return;
    const reached = this.#search(false);
    if (this.#push(reached, false)) return;
    const ranks = [...reached.keys()];
    this.bound = Math.ceil(total(ranks.map((rank) => this.load(rank))) / ranks.length);
  }

  /** The ranks of the queue in order, each with the hops from its root. */
  #search(near: boolean): Map<number, Hop[]> {
    const reached = new Map<number, Hop[]>(this.#overloaded().map((rank) => [rank, []]));
    const finished = new Set<string>();
    // A Map's iterator visits what is added meanwhile.
    for (const [rank, hops] of reached) {
      for (const from of this.replicas.filter((replica) => replica.rank === rank && replica.rows > 0)) {
        const group = `${from.expert}@${from.node}`;
        if (finished.has(`${from.expert}`)) continue;
        const inside = near && this.#surplus(from) <= 0;
        if (inside && finished.has(group)) continue;
        finished.add(inside ? group : `${from.expert}`);
        for (const to of this.replicas) {
          if (to.expert !== from.expert || (inside && to.node !== from.node) || reached.has(to.rank))
            continue;
          reached.set(to.rank, [...hops, { from, to }]);
        }
      }
    }
    return reached;
  }

  #push(reached: Map<number, Hop[]>, near: boolean): boolean {
    let moved = false;
    for (const [rank, hops] of reached) {
      if (this.load(rank) >= this.bound) continue;
      const limits = hops.map(({ from }) => from.rows);
      const leaving = hops.filter(({ from, to }) => near && from.node !== to.node);
      limits.push(...leaving.map(({ from }) => this.#surplus(from)));
      const amount = Math.min(
        ...limits,
        this.bound - this.load(rank),
        this.load(hops[0]!.from.rank) - this.bound,
      );
      if (amount <= 0) continue;
      moved = true;
      for (const { from, to } of hops) {
        from.rows -= amount;
        to.rows += amount;
      }
    }
    return moved;
  }
}

/** quotas[source] lists [expert, rank, rows], without zeros, by (expert, rank). */
export function obviousQuotas(given: QuotaCase): [expert: number, rank: number, rows: number][][] {
  const { ranks, ranksPerNode, counts, hosts } = given;
  const rowsOf = hosts.map((_, expert) => total(counts.map((row) => row[expert]!)));
  const fixed = counts.map((_, rank) =>
    total(rowsOf.filter((__, e) => hosts[e]!.length === 1 && hosts[e]![0] === rank)),
  );
  const shares = rowsOf.map((rows, expert) => Math.ceil(rows / hosts[expert]!.length));
  const bound = Math.max(Math.ceil(total(rowsOf) / ranks), ...fixed, ...shares);
  const first = new Pass(given, bound);
  const { replicas } = first.bound > bound ? new Pass(given, first.bound) : first;

  const left = counts.map((row) => [...row]);
  const quotas: Map<Replica, number>[] = counts.map(() => new Map());
  const give = (source: number, replica: Replica) => {
    const rows = Math.min(left[source]![replica.expert]!, replica.rows);
    quotas[source]!.set(replica, (quotas[source]!.get(replica) ?? 0) + rows);
    left[source]![replica.expert]! -= rows;
    replica.rows -= rows;
  };
  const sources = counts.map((_, rank) => rank);
  for (const replica of replicas) give(replica.rank, replica);
  for (const source of sources) {
    for (const replica of replicas)
      if (replica.node === Math.floor(source / ranksPerNode)) give(source, replica);
  }
  for (const source of sources) for (const replica of replicas) give(source, replica);
  return quotas.map((of) =>
    [...of]
      .map(([{ expert, rank }, rows]): [number, number, number] => [expert, rank, rows])
      .filter(([, , rows]) => rows > 0)
      .sort((a, b) => a[0] - b[0] || a[1] - b[1]),
  );
}
