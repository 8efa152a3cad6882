// Reads what the TypeScript sources declare of the native addon, so that the test of the addon needs no second list.

import { readFileSync } from 'node:fs';

/** Number of parameters of each member, null for a property. */
export type Signature = Record<string, number | null>;

const OPENING = '([{<';
const CLOSING = ')]}>';

/** Splits at a separator outside of all brackets; pieces without white space around them. */
function split(text: string, separator: string): string[] {
  const pieces = [''];
  let depth = 0;
  for (const [i, character] of [...text].entries()) {
    // The `>` of `=>` is no bracket.
    if (OPENING.includes(character)) depth++;
    else if (CLOSING.includes(character) && !(character === '>' && text[i - 1] === '=')) depth--;
    if (depth === 0 && character === separator) pieces.push('');
    else pieces[pieces.length - 1] += character;
  }
  return pieces.map((piece) => piece.trim()).filter((piece) => piece !== '');
}

/** Length of the bracketed text at the start. */
function bracketed(text: string): number {
  let depth = 0;
  for (const [i, character] of [...text].entries()) {
    if (OPENING.includes(character)) depth++;
    else if (CLOSING.includes(character) && text[i - 1] !== '=' && --depth === 0) return i + 1;
  }
  throw new Error(`no closing bracket: ${text.slice(0, 40)}`);
}

const parametersOf = (text: string) => split(text.slice(1, bracketed(text) - 1), ',').length;

/** A member: a class with the parameters of its constructor, or what a signature says. */
type Member = { class: string; parameters: number } | number | null;

interface Declared {
  readonly extended: readonly string[];
  readonly members: ReadonlyMap<string, Member>;
}

/** The interfaces of a source file and of the files of which it exports all types, by name. */
export function interfacesOf(file: URL): Map<string, Declared> {
  const source = readFileSync(file, 'utf8').replaceAll(/\/\*.*?\*\/|\/\/[^\n]*/gs, '');
  const exported = [...source.matchAll(/export type \* from '([^']+)'/g)].flatMap(([, path]) => [
    ...interfacesOf(new URL(path!, file)),
  ]);
  const found = new Map<string, Declared>(exported);
  for (const match of source.matchAll(/export interface (\w+)(?: extends ([^{]+))? (?=\{)/g)) {
    const body = source.slice(match.index + match[0].length);
    const members = new Map(
      split(body.slice(1, bracketed(body) - 1), ';').map((member): [string, Member] => {
        const [, name, rest] = member.match(/^(?:readonly )?(\w+)\??:?\s*(.*)$/s)!;
        const constructs = rest!.match(/^new\s*(\(.*)$/s);
        if (constructs !== null) {
          const type = rest!.slice(rest!.lastIndexOf('=>') + 2).trim();
          return [name!, { class: type, parameters: parametersOf(constructs[1]!) }];
        }
        return [name!, rest!.startsWith('(') ? parametersOf(rest!) : null];
      }),
    );
    found.set(match[1]!, { extended: (match[2] ?? '').split(',').map((name) => name.trim()), members });
  }
  // Interfaces of other files are left to the caller.
  for (const [name, { extended, members }] of found) {
    const inherited = extended.flatMap((other) => [...(found.get(other)?.members ?? [])]);
    found.set(name, { extended, members: new Map([...inherited, ...members]) });
  }
  return found;
}

/** What `addon.signatures` says if the addon is an object of this interface. */
export function signaturesOf(interfaces: Map<string, Declared>, name: string): Record<string, Signature> {
  const { extended, members } = interfaces.get(name)!;
  const signatures: Record<string, Signature> = { functions: {} };
  for (const outer of extended.filter((other) => interfaces.has(other))) {
    const { functions, ...classes } = signaturesOf(interfaces, outer);
    Object.assign(signatures, classes);
    Object.assign(signatures.functions!, functions);
  }
  for (const [member, declared] of members) {
    if (typeof declared === 'number') signatures.functions![member] = declared;
    if (declared === null || typeof declared === 'number') continue;
    const type = Object.fromEntries(interfaces.get(declared.class)!.members) as Signature;
    signatures[member] = { constructor: declared.parameters, ...type } as unknown as Signature;
  }
  return signatures;
}
