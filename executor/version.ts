import { readFileSync } from 'node:fs';

/** Version of this package. */
export function packageVersion(): string {
  // The same relative place from executor/ and from dist/executor/, one level further out.
  for (const up of ['../package.json', '../../package.json']) {
    try {
      return JSON.parse(readFileSync(new URL(up, import.meta.url), 'utf8')).version;
    } catch {}
  }
  return 'unknown';
}
