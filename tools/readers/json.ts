// JSON from outside: like JSON.parse, but objects with repeated keys are refused; also, values quoted in errors.

import { type ErrorCode, FuscoError } from '../../planner/errors.ts';
import { readWhole } from './file.ts';

/** The first key that an object of `text`, which is JSON, has twice. */
function repeatedKey(text: string): string | undefined {
  // Keys of each open object; undefined for an open array.
  const open: (Set<string> | undefined)[] = [];
  let isKey = false;
  for (let at = 0; at < text.length; at++) {
    const char = text[at];
    if (char === '{' || char === '[') {
      open.push(char === '{' ? new Set() : undefined);
      isKey = char === '{';
    } else if (char === '}' || char === ']') open.pop();
    else if (char === ',') isKey = open.at(-1) !== undefined;
    else if (char === '"') {
      const start = at++;
      while (text[at] !== '"') at += text[at] === '\\' ? 2 : 1;
      if (!isKey) continue;
      isKey = false;
      const key: string = JSON.parse(text.slice(start, at + 1));
      const keys = open.at(-1)!;
      if (keys.has(key)) return key;
      keys.add(key);
    }
  }
  return undefined;
}

/**
 * The value of a JSON text. JSON.parse uses the last of two values of one key. Here this is an error, because the first
 * one was probably intended.
 *
 * @throws SyntaxError
 */
export function parseJson(text: string): unknown {
  const value: unknown = JSON.parse(text);
  const key = repeatedKey(text);
  if (key !== undefined) throw new SyntaxError(`${shown(key)} occurs twice in one object`);
  return value;
}

/** The value of a file's text. Throws `code`, with the path. */
export function jsonOf(text: string, path: string, code: ErrorCode = 'E_FORMAT'): unknown {
  try {
    return parseJson(text);
  } catch (cause) {
    throw new FuscoError(code, `it is not JSON: ${(cause as Error).message}`, {
      path,
      cause,
      hint: 'Correct the JSON text at the place that the message names.',
    });
  }
}

/** The value of a JSON file. Throws `code`, E_FILE_NOT_FOUND, E_FILE_READ. */
export async function readJson(path: string, code?: ErrorCode): Promise<unknown> {
  return jsonOf(new TextDecoder().decode(await readWhole(path)), path, code);
}

/** Whether a value of a file is an integer from 0. */
export function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

/** A value of a file as quoted in errors: short, and without nested contents. */
export function shown(value: unknown): string {
  if (typeof value === 'object' && value !== null) return Array.isArray(value) ? 'a list' : 'an object';
  const text = typeof value === 'string' && value.length > 60 ? `${value.slice(0, 60)}…` : value;
  return JSON.stringify(text) ?? 'undefined';
}
