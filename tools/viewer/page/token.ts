// The part of the page that follows one token through every plan on the page.

import { html } from '../../report/markup.ts';
import { sideBySide } from '../../report/panels.ts';
import { tokenDiagram } from './diagram.ts';
import { activeSides, client, element, put, sides, titleOf } from './sides.ts';

const tokenRank = element<HTMLInputElement>('token-rank');
const tokenToken = element<HTMLInputElement>('token-token');

/** Follows the chosen token through every plan on the page. */
export async function followToken(): Promise<void> {
  const target = element('token-path');
  const shown = activeSides().filter((side) => sides[side].planned !== undefined);
  const [rank, token] = [Number(tokenRank.value), Number(tokenToken.value)];
  const parts = await Promise.all(
    shown.map(async (side) => {
      try {
        return tokenDiagram(await client.token(side, rank, token));
      } catch (error) {
        return html`<p class="empty">${error instanceof Error ? error.message : String(error)}</p>`;
      }
    }),
  );
  put(target, html`${sideBySide(parts, shown.map(titleOf))}`);
}

/** The next or previous token; at the ends, it continues with the next or previous rank. */
function moveToken(step: 1 | -1): void {
  const tokens = sides.a.planned?.tokens ?? [];
  let [rank, token] = [Number(tokenRank.value), Number(tokenToken.value) + step];
  while (token < 0 && rank > 0) token += tokens[--rank] ?? 0;
  while (rank < tokens.length - 1 && token >= tokens[rank]!) token -= tokens[rank++]!;
  const last = Math.max(0, (tokens[rank] ?? 1) - 1);
  tokenRank.value = String(rank);
  tokenToken.value = String(Math.min(Math.max(0, token), last));
  void followToken();
}

/** Connects the form in which the token is selected. */
export function wireToken(): void {
  element('token-form').addEventListener('submit', (event) => event.preventDefault());
  element('token-form').addEventListener('input', () => void followToken());
  element('token-previous').addEventListener('click', () => moveToken(-1));
  element('token-next').addEventListener('click', () => moveToken(1));
}
