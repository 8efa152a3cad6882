// Markup as text: the same charts are drawn by Node into a file and by a browser into a page.

/** Text that is markup already, and is not escaped again. */
export class Markup {
  readonly text: string;

  constructor(text: string) {
    this.text = text;
  }
}

export type Content = Markup | string | number | readonly Markup[];

export const ENTITIES: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
};

function render(content: Content): string {
  if (content instanceof Markup) return content.text;
  if (typeof content === 'object') return content.map(({ text }) => text).join('');
  return String(content).replace(/[&<>"']/g, (character) => ENTITIES[character]!);
}

/** Markup from a template: strings and numbers are escaped, so that no name in a file becomes markup. */
export function html(strings: TemplateStringsArray, ...contents: readonly Content[]): Markup {
  let text = strings[0]!;
  for (const [i, content] of contents.entries()) text += render(content) + strings[i + 1]!;
  return new Markup(text);
}

export const NOTHING = new Markup('');

/** Up to this many rows, each cell repeats the name of its column, for pages that are too narrow for columns. */
const MAX_NAMED_ROWS = 40;

/** A table whose first column names the row; `head` names the columns, units included. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): Markup {
  const named = (i: number) =>
    rows.length <= MAX_NAMED_ROWS ? html` data-head="${head[i + 1] ?? ''}"` : NOTHING;
  return html`<table><thead><tr>${head.map((name) => html`<th scope="col">${name}</th>`)}</tr></thead><tbody>${rows.map(
    ([name, ...cells]) =>
      html`<tr><th scope="row">${name!}</th>${cells.map((cell, i) => html`<td${named(i)}>${cell}</td>`)}</tr>`,
  )}</tbody></table>`;
}

/** Pairs of a name and a value. */
export function pairList(kind: 'facts' | 'measures', pairs: readonly (readonly [string, string])[]): Markup {
  return html`<dl class="${kind}">${pairs.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
}
