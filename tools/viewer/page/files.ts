// Sources of files: dropped, chosen, or named on the command line.

import type { RecordedFigures } from '../../figures/recorded.ts';
import type { NamedBytes } from '../../readers/numpyRouting.ts';

/** A group of files that belong together: one routing or one plan. */
export type Group = readonly NamedBytes[];

/** The files that `fusco view` was given; the server lists them. */
export interface ServedFile {
  readonly name: string;
  readonly url: string;
}

async function fetchBytes(url: string): Promise<Uint8Array> {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: ${response.status} ${response.statusText}`);
  return new Uint8Array(await response.arrayBuffer());
}

/** The files of the command line, in groups. */
export async function servedGroups(): Promise<Group[]> {
  const listed = (await (await fetch('files.json')).json()) as ServedFile[][];
  return Promise.all(
    listed.map((files) =>
      Promise.all(files.map(async ({ name, url }) => ({ name, bytes: await fetchBytes(url) }))),
    ),
  );
}

/** The routings of the recording of the command line, one line each; empty if there is none. */
export async function servedRecording(): Promise<RecordedFigures[]> {
  return (await (await fetch('recording.json')).json()) as RecordedFigures[];
}

/** One routing of the recording, as a plan. */
export async function servedRouting(index: number): Promise<Group> {
  return [{ name: `routing ${index} of the recording`, bytes: await fetchBytes(`recording/${index}`) }];
}

/** The routing that is part of the package: 8 ranks x 512 tokens, top-8 of 256 experts. */
export async function exampleGroup(): Promise<Group> {
  return [{ name: 'example: 8 ranks × 512 tokens', bytes: await fetchBytes('example.npy') }];
}

/** Files named rank0.npy, rank1.npy, … form one routing; every other file is separate. */
export async function groupFiles(files: Iterable<File>): Promise<Group[]> {
  const read = await Promise.all(
    [...files].map(async (file) => ({ name: file.name, bytes: new Uint8Array(await file.arrayBuffer()) })),
  );
  const byRank = read.filter(({ name }) => /^rank\d+\.npy$/.test(name));
  const others = read.filter((file) => !byRank.includes(file)).map((file) => [file]);
  return byRank.length > 0 ? [byRank, ...others] : others;
}
