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

const STORAGES: ReadonlyMap<string, NdDtype> = new Map([
  ['torch.ByteStorage', 'u8'],
  ['torch.CharStorage', 'i8'],
  ['torch.ShortStorage', 'i16'],
  ['torch.IntStorage', 'i32'],
  ['torch.LongStorage', 'i64'],
  ['torch.HalfStorage', 'f16'],
  ['torch.FloatStorage', 'f32'],
  ['torch.DoubleStorage', 'f64'],
  // As users of NumPy store it.
  ['torch.BFloat16Storage', 'u16'],
  ['torch.BoolStorage', 'u8'],
]);
const REBUILD = 'torch._utils._rebuild_tensor_v2';
const ORDERED_DICT = 'collections.OrderedDict';
/** A recorder writes two storages a record; this many members take some tens of megabytes of directory. */
const MAX_MEMBERS = 1 << 18;
const MAX_NDIM = 16;

interface Storage {
  readonly dtype: NdDtype;
  readonly key: string;
  readonly elements: number;
}

/** A tensor whose elements are still in the archive. */
export class TorchTensor {
  readonly dtype: NdDtype;
  readonly shape: readonly number[];
  readonly #read: () => NdArray;

  constructor(dtype: NdDtype, shape: readonly number[], read: () => NdArray) {
    this.dtype = dtype;
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

/** A zip archive with whatever names, up to the limits of a recording. Throws E_FORMAT. */
export function openTorch(bytes: Bytes, path: string): ZipArchive {
  return new ZipArchive(bytes, path, {
    maxMembers: MAX_MEMBERS,
    maxTotalBytes: MAX_TOTAL_BYTES,
    nameOf: (file) => file,
  });
}

function storageOf(id: PickleValue, path: string): Storage {
  const [kind, type, key, , elements] = Array.isArray(id) ? id : [];
  const dtype = type instanceof PickleGlobal ? STORAGES.get(type.name) : undefined;
  if (kind !== 'storage' || dtype === undefined || typeof key !== 'string' || !isCount(elements)) {
    refuse(path, 'a persistent id is not a storage of a plain dtype');
  }
  return { dtype, key, elements };
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
      [ORDERED_DICT, () => new Map()],
    ]);
    const names = new Set(STORAGES.keys());
    const persistent = (id: PickleValue) => storageOf(id, this.#path);
    const pickle = this.#zip.read(`${this.#prefix}data.pkl`)!;
    return unpickle(pickle, `${this.#path}/data.pkl`, { calls, names, persistent });
  }

  /** _rebuild_tensor_v2(storage, offset, size, stride, requires_grad, backward_hooks); everything is compared with the storage. */
  #tensor(args: readonly PickleValue[]): TorchTensor {
    const [storage, offset, shape, stride] = args as [Storage, unknown, unknown, unknown];
    const isTuple = (value: unknown): value is number[] =>
      Array.isArray(value) && value.length <= MAX_NDIM && value.every(isCount);
    const known = typeof storage === 'object' && storage !== null && 'elements' in storage;
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
    return new TorchTensor(copy.dtype, [...shape], read);
  }

  #materialize(
    { dtype, key, elements }: Storage,
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
    return viewElements(dtype, [...shape], out, path);
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
