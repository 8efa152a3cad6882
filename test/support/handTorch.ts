// Files of torch.save by hand, opcode by opcode.

import { zipSync } from 'fflate';

/** Pieces of a pickle: a global, an integer, text. */
export const named = (module: string, name: string) => `c${module}\n${name}\n`;
export const int = (value: number) => {
  const bytes = Buffer.alloc(8);
  bytes.writeBigInt64LE(BigInt(value));
  return `\x8a\x08${bytes.toString('latin1')}`;
};
export const word = (value: string) => `X${String.fromCharCode(value.length)}\0\0\0${value}`;
export const list = (values: readonly string[]) => `](${values.join('')}e`;
/** A dict of names and pickled values. */
export const dict = (fields: Readonly<Record<string, string>>) =>
  `}(${Object.entries(fields)
    .map(([key, value]) => word(key) + value)
    .join('')}u`;

/** A tensor of one storage; by default of bytes, the first one. */
export function tensor(
  shape: readonly number[],
  stride: readonly number[],
  elements: number,
  { key = '0', type = 'Byte' } = {},
): string {
  const storage = `(${word('storage')}${named('torch', `${type}Storage`)}${word(key)}${word('cpu')}${int(elements)}tQ`;
  const tuple = (values: readonly number[]) => `(${values.map(int).join('')}t`;
  return `${named('torch._utils', '_rebuild_tensor_v2')}(${storage}${int(0)}${tuple(shape)}${tuple(stride)}tR`;
}

/** An archive of a pickled value and its storages. */
export function torchOf(body: string, ...storages: readonly Uint8Array[]): Uint8Array {
  const pickle = new Uint8Array(Buffer.from(`\x80\x02${body}.`, 'latin1'));
  const data = storages.map((bytes, key) => [`v/data/${key}`, bytes] as const);
  return zipSync({ 'v/data.pkl': pickle, ...Object.fromEntries(data) });
}
