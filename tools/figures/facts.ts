// The facts of a plan in words: its options and its results.

import type { SumOrder } from '../../planner/spec.ts';
import { sum } from '../../planner/totals.ts';
import { formatCount as count, formatBytes, formatUs } from './format.ts';
import type { Summary } from './summary.ts';
import type { CombinePrice, SumPrice } from './sumPrice.ts';

function span(values: readonly number[]): string {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  return low === high ? count(low) : `${count(low)} to ${count(high)}`;
}

/** A hierarchical plan with one rank per node sends a row once to each rank. */
function strategyText({ strategy, ranksPerNode }: Pick<Summary, 'strategy' | 'ranksPerNode'>): string {
  return strategy === 'hier' && ranksPerNode === 1 ? 'hier, once per rank' : strategy;
}

/** Bytes of rows on the largest rank, by backend; for inspect and the report. */
export function memoryFact({ memory, strategy }: Pick<Summary, 'memory' | 'strategy'>): [string, string] {
  const { recvBytes, host, cuda, nccl } = memory;
  const [least, device, wire] = [host, cuda, nccl].map(formatBytes);
  const backends = strategy === 'flat' ? `host, cuda ${least}` : `host ${least}, cuda at most ${device}`;
  const buffer = `receive buffer ${formatBytes(recvBytes)} on the largest rank`;
  return ['memory', `${buffer}; with tokens: ${backends}, nccl at most ${wire}`];
}

/** The row of dispatch, and that of combine if it differs. */
function rowText({ hidden, dtype, rowBytes, rules }: Omit<Summary, 'traffic'>): string {
  const combine = rules?.combineDtype ?? (dtype === 'fp8' ? 'bf16' : dtype);
  const back = combine === dtype ? '' : `; combine returns ${combine}`;
  return `${hidden} x ${dtype} = ${formatBytes(rowBytes)}${back}`;
}

/** Formats the numbers of a sentence: 36384 becomes 36,384. */
function withSeparators(text: string): string {
  return text.replace(/\d{4,}/g, (digits) => count(Number(digits)));
}

/** Which rank is the busiest, and because of which experts; empty without rows. */
function busiestText({ rank, rows, experts }: Summary['busiest']): string {
  if (rows === 0) return '';
  const named = experts.map(({ expert, rows: its }) => `${expert} (${count(its)})`).join(', ');
  return `: rank ${rank}, ${count(rows)} rows, most for experts ${named}`;
}

/** Pairs of a label and a value, for inspect, the report and the viewer. */
export function factsOf(summary: Omit<Summary, 'traffic'>): [string, string][] {
  const { ranks, ranksPerNode, experts, instances, topk, imbalance, copiesPerToken, forwarding, busiest } =
    summary;
  const kept = sum(summary.keptRows);
  const { maskedEntries: masked, droppedEntries: dropped } = summary;
  const capacity = summary.capacity === 0 ? 'none' : `${count(summary.capacity)} rows per expert`;
  const replicas = instances === experts ? '' : ` in ${count(instances)} instances (${summary.replicas})`;
  const [expert, rank] = [imbalance.expertMaxOverMean, imbalance.rankMaxOverMean].map((n) => n.toFixed(2));
  const facts: [string, string][] = [
    ['group', `${ranks} ranks, ${ranksPerNode} per node, ${experts} experts${replicas}, top-${topk}`],
    ['row', rowText(summary)],
    ['strategy', `${strategyText(summary)}, align ${summary.align}, capacity ${capacity}`],
    ['tokens', `${count(sum(summary.tokens))} (${span(summary.tokens)} per rank)`],
    [
      'entries',
      `${count(kept + masked + dropped)}: ${count(kept)} routed, ${count(masked)} masked, ${count(dropped)} dropped`,
    ],
    [
      'received',
      `${span(summary.recvRows)} rows per rank${summary.paddingRows === 0 ? '' : `, ${count(summary.paddingRows)} of all padding`}`,
    ],
    ['imbalance', `busiest expert ${expert} x the mean, busiest rank ${rank} x${busiestText(busiest)}`],
    [
      'copies',
      `${copiesPerToken.sent.toFixed(2)} rows sent per token (${copiesPerToken.flat.toFixed(2)} experts per token)`,
    ],
  ];
  if (ranks > ranksPerNode) {
    const busiest = formatBytes(summary.busiestNicBytes);
    facts.push(['busiest NIC', `${busiest} sent or received between nodes by one rank`]);
  }
  if (forwarding !== undefined) {
    const { forwardedRows, stagedRows, groupLoads, rule, metadataBytes } = forwarding;
    const metadata = `${formatBytes(metadataBytes)} of metadata are sent with them`;
    facts.push(
      ['forwarding', `${count(forwardedRows)} rows between nodes, ${count(stagedRows)} of them landing rows`],
      ['rail groups', `${rule}: ${span(groupLoads)} rows per group; ${metadata}`],
    );
  }
  if (summary.reason !== '')
    facts.push(['auto', `chose ${summary.strategy}; ${withSeparators(summary.reason)}`]);
  facts.push(...Object.entries(summary.rules ?? {}));
  if (summary.extra !== undefined) facts.push(['extra', summary.extra.join(', ')]);
  return facts;
}

/** Bytes and time of each order of additions of a hierarchical combine; the order of the plan is marked. */
export function sumFacts({ sum: chosen, node, token, machine }: SumPrice): [string, string][] {
  const fact = (order: SumOrder, { linkBytes, interNodeBytes, us }: CombinePrice): [string, string] => [
    `sum by ${order}${order === chosen ? ' *' : ''}`,
    `a combine moves ${formatBytes(linkBytes)} between ranks, ${formatBytes(interNodeBytes)} of it between nodes`.concat(
      `; predicted ${formatUs(us)} with the rates of ${machine}`,
    ),
  ];
  const [name, value] = fact('token', token);
  const ratio = (a: number, b: number) => (a / b).toFixed(2);
  const price =
    node.linkBytes === 0
      ? ''
      : `: ${ratio(token.linkBytes, node.linkBytes)} x the bytes and ${ratio(token.us, node.us)} x the time of node`;
  return [fact('node', node), [name, `${value}${price}`]];
}
