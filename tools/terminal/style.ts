// The capabilities of an output stream: block characters, colors, or neither.

import { styleText } from 'node:util';

/** Two colors that readers with any color vision can distinguish, and bold; never the only way to convey a meaning. */
const PAINTS = { near: 'yellow', far: 'cyan', busiest: 'bold', faint: 'dim' } as const;
export type Paint = keyof typeof PAINTS;

export interface Style {
  /** Whether block characters may be used. */
  readonly unicode: boolean;
  readonly paint: (paint: Paint, text: string) => string;
}

/** ASCII without color: pipes, files, and terminals without support. */
export const PLAIN: Style = { unicode: false, paint: (_, text) => text };

type Environment = Readonly<Record<string, string | undefined>>;

function isUtf8(env: Environment): boolean {
  return /utf-?8/i.test(env.LC_ALL || env.LC_CTYPE || env.LANG || '');
}

/**
 * The style of a stream: blocks on a terminal whose locale is UTF-8, colors on a terminal unless NO_COLOR is set to
 * anything (no-color.org) or TERM is dumb.
 */
export function styleOf(
  stream: { readonly isTTY?: boolean | undefined },
  env: Environment = process.env,
): Style {
  if (stream.isTTY !== true || env.TERM === 'dumb') return PLAIN;
  const hasColor = env.NO_COLOR === undefined || env.NO_COLOR === '';
  return {
    unicode: isUtf8(env) && env.TERM !== 'linux',
    paint: hasColor
      ? (paint, text) => styleText(PAINTS[paint], text, { validateStream: false })
      : PLAIN.paint,
  };
}
