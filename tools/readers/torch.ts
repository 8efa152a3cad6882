// Files of torch.save since PyTorch 1.6: a zip archive with a pickle and the bytes of every storage.
//
//   NAME/data.pkl    the object; each storage is a persistent id ('storage', torch.XStorage, key, device, elements)
//   NAME/data/KEY    the bytes of one storage, stored, in the machine's byte order
//   NAME/byteorder   'little' or 'big', since 2.1
//   NAME/version     '3'

import { allocate, type Bytes, refuse } from './file.ts';
import { isCount } from './json.ts';
import { itemBytes, type NdArray, type NdDtype, shapeText, viewElements } from './npy.ts';
import { PickleGlobal, type PickleValue, unpickle } from './pickle.ts';
import { MAX_TOTAL_BYTES, ZipArchive } from './zip.ts';

/** Elements of a storage or a tensor as NumPy stores them, and their dtype if NumPy does not have it. */
interface Elements {
  readonly dtype: NdDtype;
  readonly declared?: 'bool' | 'float';
}

/** torch's dtypes, and the storages of those that have one. bf16 is u16 and fp8 u8, as users of NumPy store them. */
const DTYPES: Readonly<Record<string, Elements & { readonly storage?: string }>> = {
  uint8: { dtype: 'u8', storage: 'Byte' },
  int8: { dtype: 'i8', storage: 'Char' },
  int16: { dtype: 'i16', storage: 'Short' },
  int32: { dtype: 'i32', storage: 'Int' },
  int64: { dtype: 'i64', storage: 'Long' },
  float16: { dtype: 'f16', storage: 'Half' },
  float32: { dtype: 'f32', storage: 'Float' },
  float64: { dtype: 'f64', storage: 'Double' },
  bfloat16: { dtype: 'u16', declared: 'float', storage: 'BFloat16' },
  bool: { dtype: 'u8', declared: 'bool', storage: 'Bool' },
  uint16: { dtype: 'u16' },
  uint32: { dtype: 'u32' },
  uint64: { dtype: 'u64' },
  float8_e4m3fn: { dtype: 'u8', declared: 'float' },
  float8_e4m3fnuz: { dtype: 'u8', declared: 'float' },
  float8_e5m2: { dtype: 'u8', declared: 'float' },
  float8_e5m2fnuz: { dtype: 'u8', declared: 'float' },
};
const TENSOR_DTYPES: ReadonlyMap<string, Elements> = new Map(
  Object.entries(DTYPES).map(([name, elements]) => [`torch.${name}`, elements]),
);
/** A storage of bytes, whose dtype the tensors state. */
const UNTYPED = 'torch.storage.UntypedStorage';
const STORAGES: ReadonlyMap<string, Elements> = new Map([
  ...Object.values(DTYPES).flatMap((elements): [string, Elements][] =>
    elements.storage === undefined ? [] : [[`torch.${elements.storage}Storage`, elements]],
  ),
  [UNTYPED, { dtype: 'u8' }],
]);
const REBUILD = 'torch._utils._rebuild_tensor_v2';
/** For dtypes without a separate storage type, since PyTorch 2.1. */
const REBUILD_UNTYPED = 'torch._utils._rebuild_tensor_v3';
const REBUILD_PARAMETER = 'torch._utils._rebuild_parameter';
const ORDERED_DICT = 'collections.OrderedDict';
/** A recorder writes two storages per record. The directory of this many members takes some tens of megabytes. */
const MAX_MEMBERS = 1 << 18;
const MAX_NDIM = 16;

interface Storage extends Elements {
  readonly isUntyped: boolean;
  readonly key: string;
  readonly elements: number;
}

/** A tensor whose elements are still in the archive. */
export class TorchTensor {
  readonly dtype: NdDtype;
  readonly declared: 'bool' | 'float' | undefined;
  readonly shape: readonly number[];
  readonly #read: () => NdArray;

  constructor({ dtype, declared }: Elements, shape: readonly number[], read: () => NdArray) {
    this.dtype = dtype;
    this.declared = declared;
    this.shape = shape;
    this.#read = read;
  }

  /** The elements in C order. Throws E_FOREIGN, E_FORMAT, E_MEMORY. */
  toArray(): NdArray {
    return this.#read();
  }
}

/** True for the names of an archive that torch.save wrote. */
export function isTorchArchive(names: readonly string[]): boolean {
  return names.some((name) => name.endsWith('/data.pkl'));
}

/** A zip archive with any names, up to the limits of a recording. Throws E_FORMAT. */
export function openTorch(bytes: Bytes, path: string): ZipArchive {
  return new ZipArchive(bytes, path, {
    maxMembers: MAX_MEMBERS,
    maxTotalBytes: MAX_TOTAL_BYTES,
    nameOf: (file) => file,
  });
}

function storageOf(id: PickleValue, path: string): Storage {
  const [kind, type, key, , elements] = Array.isArray(id) ? id : [];
  const name = type instanceof PickleGlobal ? type.name : '';
  const stored = STORAGES.get(name);
  if (kind !== 'storage' || stored === undefined || typeof key !== 'string' || !isCount(elements)) {
    refuse(path, 'a persistent id is not a storage of a plain dtype');
  }
  return { ...stored, isUntyped: name === UNTYPED, key, elements };
}

/** The elements of a strided view of a storage, in C order. */
function gather(
  raw: Uint8Array,
  itemSize: number,
  offset: number,
  shape: readonly number[],
  stride: readonly number[],
  out: Uint8Array,
): void {
  const rank = shape.length;
  const index = new Array<number>(rank).fill(0);
  const inner = rank === 0 ? 1 : shape[rank - 1]!;
  const step = (rank === 0 ? 1 : stride[rank - 1]!) * itemSize;
  let to = 0;
  while (to < out.length) {
    let from = offset;
    for (let axis = 0; axis < rank - 1; axis++) from += index[axis]! * stride[axis]!;
    from *= itemSize;
    if (step === itemSize) {
      out.set(raw.subarray(from, from + inner * itemSize), to);
      to += inner * itemSize;
    } else {
      for (let i = 0; i < inner; i++, from += step, to += itemSize)
        out.set(raw.subarray(from, from + itemSize), to);
    }
    for (let axis = rank - 2; axis >= 0; axis--) {
      if (++index[axis]! < shape[axis]!) break;
      index[axis] = 0;
    }
  }
}

class Loader {
  readonly #zip: ZipArchive;
  readonly #path: string;
  readonly #prefix: string;
  /** Bytes that tensors may still take. A pickle of a few bytes a tensor can name one storage any number of times. */
  #left: number;

  constructor(bytes: Bytes, path: string) {
    this.#path = path;
    this.#zip = openTorch(bytes, path);
    this.#left = 2 * this.#zip.totalBytes;
    const pickles = this.#zip.names.filter((name) => name.endsWith('/data.pkl'));
    if (pickles.length !== 1) refuse(path, `the archive holds ${pickles.length} members data.pkl, not one`);
    this.#prefix = pickles[0]!.slice(0, -'data.pkl'.length);
  }

  load(): PickleValue {
    const order = this.#zip.read(`${this.#prefix}byteorder`);
    if (order !== undefined && new TextDecoder().decode(order) !== 'little') {
      refuse(this.#path, 'its storages are big-endian');
    }
    const calls = new Map<string, (args: readonly PickleValue[]) => PickleValue>([
      [REBUILD, (args: readonly PickleValue[]) => this.#tensor(args)],
      [
        REBUILD_UNTYPED,
        (args: readonly PickleValue[]) => this.#tensor([this.#typed(args), ...args.slice(1)]),
      ],
      // A parameter is its tensor, with requires_grad and hooks.
      [REBUILD_PARAMETER, ([tensor]: readonly PickleValue[]) => tensor],
      [ORDERED_DICT, () => new Map()],
    ]);
    const names = new Set([...STORAGES.keys(), ...TENSOR_DTYPES.keys()]);
    const persistent = (id: PickleValue) => storageOf(id, this.#path);
    const pickle = this.#zip.read(`${this.#prefix}data.pkl`)!;
    return unpickle(pickle, `${this.#path}/data.pkl`, { calls, names, persistent });
  }

  /** The storage of _rebuild_tensor_v3, whose seventh argument is the dtype of its bytes. */
  #typed(args: readonly PickleValue[]): Storage {
    const [storage, dtype] = [args[0] as Storage | null, args[6]];
    const elements = dtype instanceof PickleGlobal ? TENSOR_DTYPES.get(dtype.name) : undefined;
    const count =
      (storage?.elements ?? Number.NaN) / (elements === undefined ? 1 : itemBytes(elements.dtype));
    if (elements === undefined || storage?.isUntyped !== true || !isCount(count)) {
      return refuse(this.#path, 'a tensor is not an untyped storage with a known dtype');
    }
    return { ...storage, ...elements, isUntyped: false, elements: count };
  }

  /** _rebuild_tensor_v2(storage, offset, size, stride, requires_grad, backward_hooks); everything is compared with the storage. */
  #tensor(args: readonly PickleValue[]): TorchTensor {
    const [storage, offset, shape, stride] = args as [Storage, unknown, unknown, unknown];
    const isTuple = (value: unknown): value is number[] =>
      Array.isArray(value) && value.length <= MAX_NDIM && value.every(isCount);
    const known =
      typeof storage === 'object' && storage !== null && 'elements' in storage && !storage.isUntyped;
    if (!known || !isCount(offset) || !isTuple(shape) || !isTuple(stride) || shape.length !== stride.length) {
      return refuse(this.#path, 'a tensor is not a storage with offset, size and stride');
    }
    const count = shape.reduce((product, n) => product * n, 1);
    const last = shape.reduce((sum, n, axis) => sum + (n - 1) * stride[axis]!, offset);
    // A tensor of more elements than its storage repeats them (stride 0): no recorder writes one.
    if (count > 0 && (last >= storage.elements || count > storage.elements)) {
      refuse(this.#path, `a tensor ${shapeText(shape)} leaves its storage of ${storage.elements} elements`);
    }
    const copy = { ...storage };
    const read = () => this.#materialize(copy, offset, shape, stride, count);
    return new TorchTensor(copy, [...shape], read);
  }

  #materialize(
    { dtype, declared, key, elements }: Storage,
    offset: number,
    shape: number[],
    stride: number[],
    count: number,
  ): NdArray {
    const itemSize = itemBytes(dtype);
    const path = `${this.#path}/data/${key}`;
    this.#left -= count * itemSize;
    if (this.#left < 0) {
      refuse(
        path,
        `tensors share their storages: they take more than twice the ${this.#zip.totalBytes} bytes there`,
      );
    }
    const raw = this.#zip.read(`${this.#prefix}data/${key}`);
    if (raw === undefined || raw.length !== elements * itemSize) {
      refuse(path, `the storage has ${raw?.length ?? 'no'} bytes, the pickle says ${elements} x ${itemSize}`);
    }
    const out = allocate(count * itemSize, path);
    if (count > 0) gather(raw, itemSize, offset, shape, stride, out);
    const array = viewElements(dtype, [...shape], out, path);
    return declared === undefined ? array : { ...array, declared };
  }
}

/**
 * The object in a .pt file: dicts as Maps, lists and tuples as arrays, tensors as TorchTensor.
 *
 * @throws FuscoError E_FOREIGN for anything but plain data and tensors, E_FORMAT for a damaged archive
 */
export function readTorch(bytes: Bytes, path: string): PickleValue {
  return new Loader(bytes, path).load();
}
