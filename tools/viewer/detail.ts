// Details of a mark of a chart: the sources of an expert's rows, or the experts and tokens of a pair of ranks.

import type { Plan } from '../../planner/plan.ts';
import { formatCount, rows } from '../figures/format.ts';
import type { Detail, Subject } from './protocol.ts';

/** Maximum number of lines of a list. */
const SHOWN = 8;
const TOKENS = 16;

/** The largest counts, as `name: n rows`. */
function largestLines(counts: ReadonlyMap<number, number>, name: (key: number) => string): string[] {
  const sorted = [...counts].sort(([a, m], [b, n]) => n - m || a - b);
  const shown = sorted.slice(0, SHOWN).map(([key, n]) => `${name(key)}: ${rows(n)}`);
  const rest = sorted.length - shown.length;
  return rest > 0 ? [...shown, `${formatCount(rest)} more`] : shown;
}

/** Calls `visit` for every kept entry. */
function forEachKept(
  { shards }: Plan,
  visit: (rank: number, token: number, instance: number) => void,
  first = 0,
  end = shards.length,
): void {
  for (let rank = first; rank < end; rank++) {
    const { entrySlot, entryInstance, topk } = shards[rank]!;
    for (const [entry, slot] of entrySlot.entries())
      if (slot >= 0) visit(rank, Math.floor(entry / topk), entryInstance[entry]!);
  }
}

function count(counts: Map<number, number>, key: number): void {
  counts.set(key, (counts.get(key) ?? 0) + 1);
}

function expertDetail(plan: Plan, instance: number): Detail {
  const { instanceExpert, instanceRank } = plan.spec.placement;
  const sources = new Map<number, number>();
  const tokens: string[] = [];
  forEachKept(plan, (rank, token, chosen) => {
    if (chosen !== instance) return;
    count(sources, rank);
    if (tokens.length < TOKENS) tokens.push(`${rank}:${token}`);
  });
  return {
    title: `Expert ${instanceExpert[instance]} on rank ${instanceRank[instance]}: where its rows come from`,
    lines: [
      ...largestLines(sources, (rank) => `rank ${rank}`),
      `first tokens (rank:token): ${tokens.join(', ')}`,
    ],
  };
}

function rankDetail(plan: Plan, rank: number): Detail {
  const { instanceExpert, instanceRank } = plan.spec.placement;
  const experts = new Map<number, number>();
  const sources = new Map<number, number>();
  forEachKept(plan, (from, _, instance) => {
    if (instanceRank[instance] !== rank) return;
    count(experts, instanceExpert[instance]!);
    count(sources, from);
  });
  return {
    title: `Rank ${rank}: which experts its rows are for, and where they come from`,
    lines: [
      ...largestLines(experts, (expert) => `expert ${expert}`),
      ...largestLines(sources, (from) => `from rank ${from}`),
    ],
  };
}

function pairDetail(plan: Plan, from: number, to: number): Detail {
  const { instanceExpert, instanceRank } = plan.spec.placement;
  const experts = new Map<number, number>();
  const tokens = new Set<number>();
  forEachKept(
    plan,
    (_, token, instance) => {
      if (instanceRank[instance] !== to) return;
      count(experts, instanceExpert[instance]!);
      tokens.add(token);
    },
    from,
    from + 1,
  );
  const first = [...tokens].slice(0, TOKENS).join(', ');
  return {
    title: `Tokens of rank ${from} whose experts are on rank ${to}`,
    lines: [
      ...largestLines(experts, (expert) => `expert ${expert}`),
      `${formatCount(tokens.size)} tokens; first: ${first}`,
    ],
  };
}

/** The parts of a mark. O(entries). */
export function detailOf(plan: Plan, subject: Subject): Detail {
  if ('expert' in subject) return expertDetail(plan, subject.expert);
  if ('rank' in subject) return rankDetail(plan, subject.rank);
  return pairDetail(plan, subject.from, subject.to);
}
