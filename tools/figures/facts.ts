// The facts of a plan in words: what was asked for and what came out.

import { sum } from '../../planner/totals.ts';
import { formatCount as count, formatBytes } from './format.ts';
import type { Summary } from './summary.ts';

function span(values: readonly number[]): string {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  return low === high ? count(low) : `${count(low)} to ${count(high)}`;
}

/** Bytes of rows on the largest rank, by backend; for inspect and the report. */
export function memoryFact({ memory, strategy }: Pick<Summary, 'memory' | 'strategy'>): [string, string] {
  const { recvBytes, host, cuda, nccl } = memory;
  const [least, device, wire] = [host, cuda, nccl].map(formatBytes);
  const backends = strategy === 'flat' ? `host, cuda ${least}` : `host ${least}, cuda at most ${device}`;
  const buffer = `receive buffer ${formatBytes(recvBytes)} on the largest rank`;
  return ['memory', `${buffer}; with tokens: ${backends}, nccl at most ${wire}`];
}

/** Pairs of a label and a value, for inspect, the report and the viewer. */
export function factsOf(summary: Omit<Summary, 'traffic'>): [string, string][] {
  const { ranks, ranksPerNode, experts, instances, topk, imbalance, copiesPerToken, forwarding } = summary;
  const kept = sum(summary.keptRows);
  const { maskedEntries: masked, droppedEntries: dropped } = summary;
  const capacity = summary.capacity === 0 ? 'none' : `${count(summary.capacity)} rows per expert`;
  const replicas = instances === experts ? '' : ` in ${count(instances)} instances (${summary.replicas})`;
  const [expert, rank] = [imbalance.expertMaxOverMean, imbalance.rankMaxOverMean].map((n) => n.toFixed(2));
  const facts: [string, string][] = [
    ['group', `${ranks} ranks, ${ranksPerNode} a node, ${experts} experts${replicas}, top-${topk}`],
    ['row', `${summary.hidden} x ${summary.dtype} = ${formatBytes(summary.rowBytes)}`],
    ['strategy', `${summary.strategy}, align ${summary.align}, capacity ${capacity}`],
    ['tokens', `${count(sum(summary.tokens))} (${span(summary.tokens)} a rank)`],
    [
      'entries',
      `${count(kept + masked + dropped)}: ${count(kept)} routed, ${count(masked)} masked, ${count(dropped)} dropped`,
    ],
    [
      'received',
      `${span(summary.recvRows)} rows a rank, ${count(summary.paddingRows)} of them padding in all`,
    ],
    ['imbalance', `busiest expert ${expert} x the mean, busiest rank ${rank} x`],
    [
      'copies',
      `${copiesPerToken.sent.toFixed(2)} rows sent per token (${copiesPerToken.flat.toFixed(2)} experts per token)`,
    ],
    ['descriptors', `${count(summary.segments)} segments, ${count(summary.slices)} slices`],
  ];
  if (ranks > ranksPerNode) {
    const busiest = formatBytes(summary.busiestNicBytes);
    facts.push(['busiest NIC', `${busiest} sent or received between nodes by one rank`]);
  }
  if (forwarding !== undefined) {
    const { forwardedRows, stagedRows, groupLoads, rule, metadataBytes } = forwarding;
    const metadata = `${formatBytes(metadataBytes)} of metadata travel along`;
    facts.push(
      ['forwarding', `${count(forwardedRows)} rows between nodes, ${count(stagedRows)} of them landing rows`],
      ['rail groups', `${rule}: ${span(groupLoads)} rows a group; ${metadata}`],
    );
  }
  if (summary.reason !== '') facts.push(['auto', summary.reason]);
  facts.push(...Object.entries(summary.rules ?? {}));
  if (summary.extra !== undefined) facts.push(['extra', summary.extra.join(', ')]);
  return facts;
}
