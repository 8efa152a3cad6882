// A pickle machine that builds plain data and nothing else.
//
// A pickle is a program: GLOBAL names a Python object, REDUCE calls it. Here, a global is a name in a table that the
// caller gives, and a call is a function of this table. The opcodes that torch.save needs for tensors in dicts, lists and
// tuples are listed below. Everything else is refused by its name, before anything is executed.

import { FuscoError } from '../../planner/errors.ts';

/**
 * The values of a pickle: None is null, a dict is a Map, lists and tuples are arrays, all others come from the caller.
 */
export type PickleValue = unknown;

/** The objects outside a pickle that it may name. */
export interface PickleWorld {
  /** `module.name` -> the result of a call of it. A function may throw for unsupported arguments. */
  readonly calls: ReadonlyMap<string, (args: readonly PickleValue[]) => PickleValue>;
  /** `module.name` of globals that are only passed on, never called. */
  readonly names: ReadonlySet<string>;
  /** An object that lives outside the pickle, such as a storage. */
  readonly persistent: (id: PickleValue) => PickleValue;
}

/** A global that a pickle named. */
export class PickleGlobal {
  readonly name: string;

  constructor(name: string) {
    this.name = name;
  }
}

const MARK = Symbol('mark');
/** Protocol 2 is torch.save's default; 3 to 5 add framing and shorter opcodes. */
const MAX_PROTOCOL = 5;

const OP = {
  mark: 0x28,
  emptyTuple: 0x29,
  stop: 0x2e,
  binfloat: 0x47,
  binint: 0x4a,
  binint1: 0x4b,
  binint2: 0x4d,
  none: 0x4e,
  binpersid: 0x51,
  reduce: 0x52,
  binunicode: 0x58,
  emptyList: 0x5d,
  append: 0x61,
  global: 0x63,
  appends: 0x65,
  binget: 0x68,
  longBinget: 0x6a,
  binput: 0x71,
  longBinput: 0x72,
  setitem: 0x73,
  tuple: 0x74,
  setitems: 0x75,
  emptyDict: 0x7d,
  proto: 0x80,
  tuple1: 0x85,
  tuple2: 0x86,
  tuple3: 0x87,
  newtrue: 0x88,
  newfalse: 0x89,
  long1: 0x8a,
  shortBinunicode: 0x8c,
  stackGlobal: 0x93,
  memoize: 0x94,
  frame: 0x95,
} as const;

class Machine {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #path: string;
  readonly #world: PickleWorld;
  readonly #stack: PickleValue[] = [];
  readonly #memo = new Map<number, PickleValue>();
  #at = 0;

  constructor(bytes: Uint8Array, path: string, world: PickleWorld) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    this.#path = path;
    this.#world = world;
  }

  #fail(text: string): never {
    throw new FuscoError('E_FOREIGN', `the pickle at byte ${this.#at}: ${text}`, { path: this.#path });
  }

  #take(length: number): number {
    const at = this.#at;
    if (at + length > this.#bytes.length) this.#fail('it is truncated');
    this.#at += length;
    return at;
  }

  #u8(): number {
    return this.#view.getUint8(this.#take(1));
  }

  #u32(): number {
    return this.#view.getUint32(this.#take(4), true);
  }

  #text(length: number): string {
    const at = this.#take(length);
    return Buffer.from(this.#bytes.subarray(at, at + length)).toString('utf8');
  }

  /** A line without its end, as the names of GLOBAL are stored. */
  #line(): string {
    const end = this.#bytes.indexOf(0x0a, this.#at);
    if (end < 0) this.#fail('it is truncated');
    const text = this.#text(end - this.#at);
    this.#at++;
    return text;
  }

  /** A little-endian integer of any length; integers beyond 2^53 are refused, because no valid file needs them. */
  #long(length: number): number {
    const at = this.#take(length);
    let value = 0n;
    for (let i = length - 1; i >= 0; i--) value = (value << 8n) | BigInt(this.#bytes[at + i]!);
    if (length > 0 && this.#bytes[at + length - 1]! >= 0x80) value -= 1n << BigInt(8 * length);
    const number = Number(value);
    if (!Number.isSafeInteger(number)) this.#fail('an integer exceeds 2^53');
    return number;
  }

  #pop(): PickleValue {
    const value = this.#stack.pop();
    if (this.#stack.length === 0 && value === undefined) this.#fail('its stack is empty');
    if (value === MARK) this.#fail('it takes a mark for a value');
    return value;
  }

  #top(): PickleValue {
    const value = this.#stack.at(-1);
    if (value === undefined || value === MARK) this.#fail('its stack is empty');
    return value;
  }

  #popMark(): PickleValue[] {
    const mark = this.#stack.lastIndexOf(MARK);
    if (mark < 0) this.#fail('it has no mark');
    const items = this.#stack.splice(mark);
    items.shift();
    return items;
  }

  #popTuple(length: number): PickleValue[] {
    const items: PickleValue[] = [];
    for (let i = 0; i < length; i++) items.unshift(this.#pop());
    return items;
  }

  #extend(items: readonly PickleValue[]): void {
    const list = this.#top();
    if (!Array.isArray(list)) this.#fail('it appends to what is no list');
    for (const item of items) list.push(item);
  }

  #setItems(items: readonly PickleValue[]): void {
    const dict = this.#top();
    if (!(dict instanceof Map)) this.#fail('it sets items of what is no dict');
    if (items.length % 2 !== 0) this.#fail('a key has no value');
    for (let i = 0; i < items.length; i += 2) {
      const key = items[i];
      if (typeof key !== 'string' && typeof key !== 'number')
        this.#fail('a key is neither text nor a number');
      dict.set(key, items[i + 1]);
    }
  }

  #global(module: unknown, name: unknown): PickleGlobal {
    if (typeof module !== 'string' || typeof name !== 'string') this.#fail('a global has no name');
    const full = `${module}.${name}`;
    const { calls, names } = this.#world;
    if (calls.has(full) || names.has(full)) return new PickleGlobal(full);
    const shown = full.length > 60 ? `${full.slice(0, 60)}…` : full;
    return this.#fail(`it asks for ${JSON.stringify(shown)}, which tensors in dicts and lists do not need`);
  }

  #reduce(): void {
    const args = this.#pop();
    const callee = this.#pop();
    const call = callee instanceof PickleGlobal ? this.#world.calls.get(callee.name) : undefined;
    if (call === undefined || !Array.isArray(args)) this.#fail('it calls what cannot be called');
    this.#stack.push(call(args));
  }

  /** Opcodes that read or write the memo or push a scalar; false for any other. */
  #scalar(op: number): boolean {
    const stack = this.#stack;
    if (op === OP.binput) this.#memo.set(this.#u8(), this.#top());
    else if (op === OP.longBinput) this.#memo.set(this.#u32(), this.#top());
    else if (op === OP.memoize) this.#memo.set(this.#memo.size, this.#top());
    else if (op === OP.binget || op === OP.longBinget) {
      const key = op === OP.binget ? this.#u8() : this.#u32();
      if (!this.#memo.has(key)) this.#fail(`it reads entry ${key} before writing it`);
      stack.push(this.#memo.get(key));
    } else if (op === OP.none) stack.push(null);
    else if (op === OP.newtrue || op === OP.newfalse) stack.push(op === OP.newtrue);
    else if (op === OP.binint) stack.push(this.#view.getInt32(this.#take(4), true));
    else if (op === OP.binint1) stack.push(this.#u8());
    else if (op === OP.binint2) stack.push(this.#view.getUint16(this.#take(2), true));
    else if (op === OP.long1) stack.push(this.#long(this.#u8()));
    else if (op === OP.binfloat) stack.push(this.#view.getFloat64(this.#take(8), false));
    else if (op === OP.binunicode) stack.push(this.#text(this.#u32()));
    else if (op === OP.shortBinunicode) stack.push(this.#text(this.#u8()));
    else return false;
    return true;
  }

  /** Opcodes that build containers, and those that reach outside through the world; false for any other. */
  #build(op: number): boolean {
    const stack = this.#stack;
    if (op === OP.mark) stack.push(MARK);
    else if (op === OP.emptyTuple || op === OP.emptyList) stack.push([]);
    else if (op === OP.emptyDict) stack.push(new Map());
    else if (op === OP.tuple) stack.push(this.#popMark());
    else if (op >= OP.tuple1 && op <= OP.tuple3) stack.push(this.#popTuple(op - OP.tuple1 + 1));
    else if (op === OP.append) this.#extend([this.#pop()]);
    else if (op === OP.appends) this.#extend(this.#popMark());
    else if (op === OP.setitem) this.#setItems(this.#popTuple(2));
    else if (op === OP.setitems) this.#setItems(this.#popMark());
    else if (op === OP.global) stack.push(this.#global(this.#line(), this.#line()));
    else if (op === OP.stackGlobal) {
      const [module, name] = this.#popTuple(2);
      stack.push(this.#global(module, name));
    } else if (op === OP.binpersid) stack.push(this.#world.persistent(this.#pop()));
    else if (op === OP.reduce) this.#reduce();
    else return false;
    return true;
  }

  run(): PickleValue {
    if (this.#bytes[0] !== OP.proto) this.#fail('it does not start with its protocol');
    for (;;) {
      const op = this.#u8();
      if (op === OP.stop) break;
      if (op === OP.proto) {
        const protocol = this.#u8();
        if (protocol < 2 || protocol > MAX_PROTOCOL)
          this.#fail(`protocol ${protocol} is not 2 to ${MAX_PROTOCOL}`);
      } else if (op === OP.frame) {
        this.#take(8);
      } else if (!this.#scalar(op) && !this.#build(op)) {
        this.#fail(
          `opcode 0x${op.toString(16).padStart(2, '0')} is not one that tensors in dicts and lists need`,
        );
      }
    }
    const value = this.#pop();
    if (this.#stack.length > 0) this.#fail('values are left on its stack');
    return value;
  }
}

/**
 * The value of a pickle of protocol 2 to 5. Runs no code of the file: see the head of this module.
 *
 * @throws FuscoError E_FOREIGN for damage and for every global or opcode outside the world, and what the world throws
 */
export function unpickle(bytes: Uint8Array, path: string, world: PickleWorld): PickleValue {
  return new Machine(bytes, path, world).run();
}
