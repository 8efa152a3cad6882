// Tables of integers as comma-separated text with a line of names.

import { FuscoError } from '../../planner/errors.ts';

/** Names of each column; the first one found is read. */
type Columns<Name extends string> = Readonly<Record<Name, readonly string[]>>;

const MAX_SHOWN = 60;

function fail(path: string, text: string): never {
  throw new FuscoError('E_FORMAT', text, {
    path,
    hint: 'CSV has a line of names, then integers from 0 separated by commas.',
  });
}

function cellsOf(line: string): string[] {
  return line.split(',').map((cell) => cell.trim().replace(/^"(.*)"$/, '$1'));
}

/**
 * The rows of a table, of which the named columns are integers from 0; other columns are ignored.
 *
 * @throws FuscoError E_FORMAT if a column is missing or there twice, or a cell is no integer
 */
export function* readCsv<Name extends string>(
  text: string,
  columns: Columns<Name>,
  path: string,
): Generator<Record<Name, number>> {
  const [head, ...lines] = text.replace(/^\uFEFF/, '').split(/\r?\n/);
  const names = cellsOf(head ?? '');
  const wanted = (Object.entries(columns) as [Name, readonly string[]][]).map(([name, aliases]) => {
    const found = aliases.find((alias) => names.includes(alias));
    if (found === undefined) {
      fail(path, `no column ${aliases[0]} in ${JSON.stringify((head ?? '').slice(0, MAX_SHOWN))}`);
    }
    if (names.indexOf(found) !== names.lastIndexOf(found)) fail(path, `the column ${found} occurs twice`);
    return { name, at: names.indexOf(found) };
  });
  for (const [i, line] of lines.entries()) {
    if (line.trim() === '') continue;
    const cells = cellsOf(line);
    const row = {} as Record<Name, number>;
    for (const { name, at } of wanted) {
      const value = Number(cells[at]);
      if (!/^[0-9]{1,15}$/.test(cells[at] ?? '')) {
        fail(path, `line ${i + 2}: ${JSON.stringify((cells[at] ?? '').slice(0, MAX_SHOWN))} is no count`);
      }
      row[name] = value;
    }
    yield row;
  }
}
