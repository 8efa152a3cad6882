import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { findRecordings } from '../../../tools/bench/recorded.ts';
import { encodeNpy } from '../../../tools/readers/npy.ts';

async function folderWith(files: Record<string, Uint8Array>): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'fusco-recorded-'));
  onTestFinished(() => rm(folder, { recursive: true }));
  await Promise.all(Object.entries(files).map(([name, bytes]) => writeFile(join(folder, name), bytes)));
  return folder;
}

/** Ids of one token on each of so many ranks. */
const ids = (ranks: number) =>
  Buffer.concat(
    encodeNpy(
      'i32',
      [ranks, 1, 2],
      Int32Array.from({ length: 2 * ranks }, (_, i) => i),
    ),
  );

it('finds recordings in the order of their names, and leaves their weights and other files', async () => {
  const folder = await folderWith({
    'b.idx.npy': ids(2),
    'a.npy': ids(1),
    'b.w.npy': new Uint8Array(3),
    'README.md': new Uint8Array(3),
  });
  const recordings = await findRecordings(folder);
  const read = await Promise.all(recordings.map(async ({ name, read }) => [name, (await read()).length]));
  expect(read).toEqual([
    ['a', 1],
    ['b.idx', 2],
  ]);
});

it('finds none without a folder, and says which folder is not there', async () => {
  expect(await findRecordings(undefined)).toEqual([]);
  const path = join(await folderWith({}), 'nowhere');
  await expect(findRecordings(path)).rejects.toMatchObject({
    code: 'E_FILE_NOT_FOUND',
    details: { path },
  });
});
