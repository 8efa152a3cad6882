// What planning on the devices is asked for, checked; and gathers whose ranks may fail.

import { checkInteger, type ErrorCode, FuscoError } from '../planner/errors.ts';
import { MAX_ROWS, MAX_TOPK } from '../planner/format/layout.ts';
import { type PlanOptions, resolveOptions } from '../planner/spec.ts';
import type { DeviceIds, DevicePlanRequest, IdDtype } from './backends/types.ts';
import type { DeviceRouting, GatherAll } from './deviceExchange.ts';
import { checkBytes, isExternal, type Memory } from './memory.ts';

const ID_BYTES: Readonly<Record<IdDtype, number>> = {
  i8: 1,
  u8: 1,
  i16: 2,
  u16: 2,
  i32: 4,
  u32: 4,
  i64: 8,
  u64: 8,
};

/** Throws E_RANKS unless there is one element for each local rank. */
function checkCount(name: string, list: readonly unknown[], localRanks: number): void {
  if (Array.isArray(list) && list.length === localRanks) return;
  throw new FuscoError(
    'E_RANKS',
    `${name} must be a list with one element for each of ${localRanks} local ranks`,
    {
      limit: localRanks,
    },
  );
}

/** The dtype of a typed array of integers. */
function dtypeOf(ids: ArrayBufferView): IdDtype {
  const name = Object.prototype.toString.call(ids).slice(8, -1);
  const bytes = (ids as Uint8Array).BYTES_PER_ELEMENT;
  return `${/^(Big)?U/.test(name) ? 'u' : 'i'}${8 * bytes}` as IdDtype;
}

/** The ids of a local rank. Throws E_ROUTING_DTYPE, E_BUFFER. */
function deviceIds(
  ids: Memory,
  given: IdDtype | undefined,
  tokens: number,
  topk: number,
  rank: number,
): DeviceIds {
  const isView = !isExternal(ids);
  const dtype = given ?? (isView ? dtypeOf(ids) : 'i32');
  if (!Object.hasOwn(ID_BYTES, dtype) || (isView && given !== undefined && given !== dtypeOf(ids))) {
    throw new FuscoError('E_ROUTING_DTYPE', `ids of local rank ${rank} of dtype ${String(dtype)}`, {
      rank,
      hint: `Use integers: ${Object.keys(ID_BYTES).join(', ')}, the same as those of the array.`,
    });
  }
  const bytes = isView ? ids.byteLength : ids.bytes;
  checkBytes(`ids of local rank ${rank}`, bytes, tokens * topk * ID_BYTES[dtype], rank);
  return { ids, dtype, tokens, topk };
}

/** Throws E_RANKS, E_OPTION, E_BUFFER, E_ROUTING_DTYPE, E_PLACEMENT. */
export function deviceRequest(
  call: DeviceRouting & Omit<PlanOptions, 'ranks'>,
  ranks: number,
  localRanks: number,
): DevicePlanRequest {
  const { ids, idDtype, tokens, topk, maxTokens, maxRecvRows, ...options } = call;
  checkCount('ids', ids, localRanks);
  checkCount('tokens', tokens, localRanks);
  checkInteger('topk', topk, 1, MAX_TOPK);
  for (const count of tokens) checkInteger('tokens', count, 0, MAX_ROWS);
  const most = checkInteger('maxTokens', maxTokens ?? Math.max(1, ...tokens), 1, MAX_ROWS);
  const bound = maxRecvRows === undefined ? 0 : checkInteger('maxRecvRows', maxRecvRows, 1, MAX_ROWS);
  if (options.strategy === 'auto') {
    throw new FuscoError('E_OPTION', 'planning on the devices takes strategy flat or hier, not auto', {
      hint: 'Choose flat or hier: a captured graph cannot change its strategy.',
    });
  }
  return {
    spec: resolveOptions({ ...options, ranks }, topk),
    ids: ids.map((memory, rank) => deviceIds(memory, idDtype, tokens[rank]!, topk, rank)),
    maxTokens: most,
    maxRecvRows: bound,
  };
}

/** Gathers the same number of bytes from every rank. */
type GatherEqual = (what: string, own: Uint8Array) => Promise<Uint8Array[]>;

interface Failed {
  readonly code: ErrorCode;
  readonly message: string;
}

/** Gathers bytes of any length. If a rank cannot make its bytes, all ranks throw the error of the first such rank. */
export function gatherAll(gather: GatherEqual): GatherAll {
  return async (what, make) => {
    let failure: FuscoError | undefined;
    const own = await make().catch((error: unknown) => {
      if (!(error instanceof FuscoError)) throw error;
      failure = error;
      const failed: Failed = { code: error.code, message: error.message };
      return new TextEncoder().encode(JSON.stringify(failed));
    });
    const head = Uint32Array.of(own.length, failure === undefined ? 0 : 1);
    const heads = (await gather(`${what}: sizes`, new Uint8Array(head.buffer))).map(
      (bytes) => new Uint32Array(Uint8Array.from(bytes).buffer),
    );
    // At least a byte: backends gather no empty buffers.
    const padded = new Uint8Array(Math.max(1, ...heads.map(([bytes]) => bytes!)));
    padded.set(own);
    const all = (await gather(what, padded)).map((bytes, rank) => bytes.subarray(0, heads[rank]![0]));
    const first = heads.findIndex(([, hasFailed]) => hasFailed !== 0);
    if (first < 0) return all;
    if (failure !== undefined) throw failure;
    const { code, message } = JSON.parse(new TextDecoder().decode(all[first])) as Failed;
    throw new FuscoError(code, message, { rank: first });
  };
}
