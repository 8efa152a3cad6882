import { type ErrorCode, FuscoError } from '../errors.ts';

/** Stops the remaining checks of a shard after its first defect, because later defects may be consequences of it. */
export class Halt extends Error {
  readonly defect: FuscoError;

  constructor(defect: FuscoError) {
    super(defect.message);
    this.defect = defect;
  }
}

/** Throws the defect found at `path` of a rank's shard. */
export function halt(
  code: ErrorCode,
  rank: number,
  path: string,
  text: string,
  value?: number,
  limit?: number,
): never {
  const details = {
    path: `/ranks/${rank}${path}`,
    rank,
    ...(value === undefined ? {} : { value }),
    ...(limit === undefined ? {} : { limit }),
  };
  throw new Halt(new FuscoError(code, text, details));
}

/** Halts with E_SHARD_HEAD unless a word or a count at the head of the shard has the required value. */
export function checkWord(rank: number, name: string, found: number, wanted: number): void {
  if (found === wanted) return;
  halt('E_SHARD_HEAD', rank, '/head', `${name} is ${found}, not ${wanted}`, found, wanted);
}
