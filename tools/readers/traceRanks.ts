// Which recorded ranks form the group of a plan, and which of them had no tokens.
//
// A rank without tokens writes no record, so a missing record has three possible causes: an idle rank, a rank of another
// pipeline stage, or a missing file. The tokens of one rank are never assigned to another.

import { FuscoError } from '../../planner/errors.ts';
import type { ReadChoice } from './choice.ts';
import { listed, type SeenRank } from './piece.ts';

interface Question {
  readonly path: string;
  readonly layer: number;
  /** Every rank with a record or a file. */
  readonly seen: ReadonlyMap<number, SeenRank>;
  /** Ranks that recorded the wanted layer in the wanted step. */
  readonly recorded: ReadonlySet<number>;
  readonly choice: ReadChoice;
}

/** `0..3` for consecutive ranks, else a list. */
function spanned(ranks: readonly number[]): string {
  const [first, last] = [ranks[0]!, ranks.at(-1)!];
  return ranks.length > 2 && last - first + 1 === ranks.length ? `${first}..${last}` : listed(ranks);
}

const plural = (ranks: readonly number[]) => (ranks.length === 1 ? 'rank' : 'ranks');

function refuse({ path }: Question, text: string, hint: string): never {
  throw new FuscoError('E_RANKS', text, { path, hint });
}

function upTo(count: number): number[] {
  return Array.from({ length: count }, (_, rank) => rank);
}

/** Ranks that recorded the layer in some step, if others recorded only other layers: one of several pipeline stages. */
function stageOf(question: Question): number[] | undefined {
  const ranks = [...question.seen.keys()].sort((a, b) => a - b);
  const layersOf = (rank: number) => question.seen.get(rank)!.layers;
  const own = ranks.filter((rank) => layersOf(rank).has(question.layer));
  const others = ranks.filter((rank) => !layersOf(rank).has(question.layer) && layersOf(rank).size > 0);
  if (others.length === 0) return undefined;
  const silent = ranks.filter((rank) => layersOf(rank).size === 0);
  const isConsecutive = own.at(-1)! - own[0]! + 1 === own.length;
  if (silent.length > 0 || !isConsecutive || own.length === 1) {
    const unclear = silent.length > 0 ? `; ${plural(silent)} ${spanned(silent)} recorded nothing` : '';
    refuse(
      question,
      `layer ${question.layer} was recorded by ${plural(own)} ${spanned(own)}, other layers by ${spanned(others)}${unclear}`,
      'Say which ranks are the group of this layer, for example --ranks-from 4..7.',
    );
  }
  return own;
}

/** Without --ranks and --ranks-from: all ranks of the recording, or those of the pipeline stage that has the layer. */
function ranksOfRecording(question: Question): number[] {
  const { layer, seen, choice } = question;
  const stage = stageOf(question);
  if (stage !== undefined) {
    const text = `layer ${layer} was recorded by ranks ${spanned(stage)} of ${seen.size}: planned as a group of ${stage.length}`;
    choice.notice?.(`${text} (--ranks-from selects others)`);
    return stage;
  }
  const ranks = [...seen.keys()].sort((a, b) => a - b);
  const last = ranks.at(-1)!;
  const missing = upTo(last + 1).filter((rank) => !seen.has(rank));
  if (missing.length > 0) {
    refuse(
      question,
      `${plural(missing)} ${spanned(missing)} recorded nothing, the highest is rank ${last}`,
      'Give --ranks N if the others had no tokens, --ranks-from FIRST..LAST for the ranks of one group, or the missing files.',
    );
  }
  if (ranks.length > 1) return ranks;
  return refuse(
    question,
    'only rank 0 recorded, and nothing says how many ranks there are; give --ranks',
    'Give the directory with the files of all ranks, or --ranks N if the others had no tokens; with --as-batch, --ranks splits the tokens.',
  );
}

/** With --ranks: that many ranks from 0 on, or the pipeline stage of this size. */
function countedRanks(question: Question, count: number): number[] {
  const last = Math.max(...question.seen.keys());
  if (last < count) return upTo(count);
  const stage = stageOf(question);
  if (stage?.length === count) return stage;
  return refuse(
    question,
    `it contains ${last + 1} ranks, not the ${count} requested`,
    'Leave out --ranks, or take some of the ranks with --ranks-from FIRST..LAST.',
  );
}

/**
 * The recorded ranks that become rank 0, 1, … of the plan. Ranks that recorded nothing are reported.
 *
 * @throws FuscoError E_RANKS if the group does not follow from the recording and the choice, or a rank's file was cut
 *   before the wanted record
 */
export function wantedRanks(question: Question): number[] {
  const { choice, seen, recorded } = question;
  const { ranks: count, ranksFrom } = choice;
  const isSplit = choice.asBatch === true;
  if (!isSplit && ranksFrom !== undefined && count !== undefined && count !== ranksFrom.length) {
    refuse(question, `--ranks ${count}, --ranks-from names ${ranksFrom.length}`, 'Leave out --ranks.');
  }
  const isUnranked = choice.anyRanks === true || choice.asBatch === true;
  if (isUnranked && ranksFrom === undefined) return [...recorded].sort((a, b) => a - b);
  const ranks =
    ranksFrom ?? (count === undefined ? ranksOfRecording(question) : countedRanks(question, count));
  const idle = ranks.filter((rank) => !recorded.has(rank));
  if (idle.length === ranks.length) {
    refuse(
      question,
      `${plural(ranks)} ${spanned(ranks)} recorded nothing of this layer and step; ${spanned([...recorded])} did`,
      'Name the ranks that recorded the layer with --ranks-from.',
    );
  }
  const cut = idle.find((rank) => seen.get(rank)?.isCut);
  if (cut !== undefined) {
    refuse(
      question,
      `the file of rank ${cut} is truncated before a record of this layer and step`,
      'Choose an earlier step, which all ranks recorded.',
    );
  }
  if (idle.length > 0) {
    choice.notice?.(`${plural(idle)} ${spanned(idle)} recorded nothing of this layer and step: no tokens`);
  }
  return [...ranks];
}
