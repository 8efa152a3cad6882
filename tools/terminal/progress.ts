// Progress of long work on stderr: a bar with an estimate, drawn only on a terminal and only after the work has taken a
// while, and removed when it is done. It never appears in scripts and pipes.

import { SingleBar } from 'cli-progress';
import { styleOf } from './style.ts';

/** Work that is done sooner shows no bar. */
const DELAY_MS = 500;

export interface Progress {
  /** Updates the amount of work done. Cheap enough to call for every item. */
  readonly update: (done: number, total: number) => void;
  /** Removes the bar; call it however the work ends. */
  readonly stop: () => void;
}

/** A bar for one task, with its name. Without a terminal it does nothing. */
export function startProgress(label: string, stream: NodeJS.WriteStream = process.stderr): Progress {
  if (stream.isTTY !== true) return { update: () => {}, stop: () => {} };
  const { unicode } = styleOf(stream);
  const started = performance.now();
  let bar: SingleBar | undefined;
  const start = (done: number, total: number): SingleBar => {
    const made = new SingleBar({
      stream,
      format: `${label} [{bar}] {percentage} %, {eta_formatted} left`,
      barCompleteChar: unicode ? '█' : '#',
      barIncompleteChar: unicode ? '░' : '.',
      barsize: 30,
      clearOnComplete: true,
      hideCursor: true,
      linewrap: null,
    });
    made.start(total, done);
    return made;
  };
  return {
    update: (done, total) => {
      if (bar === undefined && performance.now() - started >= DELAY_MS && done < total)
        bar = start(done, total);
      bar?.update(done);
    },
    stop: () => bar?.stop(),
  };
}

/** Runs work with a bar that is removed when the work ends, successfully or not. */
export async function withProgress<T>(
  label: string,
  work: (update: Progress['update']) => T | Promise<T>,
): Promise<T> {
  const progress = startProgress(label);
  try {
    return await work(progress.update);
  } finally {
    progress.stop();
  }
}
