// NumPy's .npz: a zip archive whose members are .npy files, stored (savez) or deflated (savez_compressed).

import { type Bytes, malformed } from './file.ts';
import { type NdArray, parseNpy } from './npy.ts';
import { MAX_TOTAL_BYTES, ZipArchive } from './zip.ts';

/** Maximum number of members of one archive: the maximum number of ranks of a group. */
export const MAX_MEMBERS = 4096;

/** Name of a member without its extension; only plain names that end in .npy pass. */
function memberName(file: string, path: string): string {
  if (/[/\\:\0]/.test(file)) {
    malformed(path, `member ${JSON.stringify(file)} is a path, not a name`);
  }
  if (!/.\.npy$/s.test(file)) {
    malformed(path, `member ${JSON.stringify(file)} is not named NAME.npy`);
  }
  return file.slice(0, -'.npy'.length);
}

/**
 * The arrays of one .npz by name (without .npy), in the archive's order. Stored members are views of `bytes` where
 * they are aligned.
 *
 * @param maxTotalBytes limit on the sizes of all members together; default 8 GiB
 * @throws FuscoError E_MEMORY, or E_FORMAT for damage, more than 4096 members, more bytes than the limit, names that
 *   are paths or do not end in .npy, and members that parseNpy refuses
 */
export function readNpz(
  bytes: Bytes,
  path: string,
  maxTotalBytes: number = MAX_TOTAL_BYTES,
): Map<string, NdArray> {
  const nameOf = (file: string) => memberName(file, path);
  const zip = new ZipArchive(bytes, path, { maxMembers: MAX_MEMBERS, maxTotalBytes, nameOf });
  const arrays = new Map<string, NdArray>();
  for (const name of zip.names) arrays.set(name, parseNpy(zip.read(name)!, `${path}/${name}.npy`));
  return arrays;
}
