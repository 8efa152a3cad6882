// From expert ids of any integer type to instances: validation, masking and the choice of a replica by the rule `local`.

import * as J from '../jobs';

const OK: u32 = 0;
const BAD_ID: u32 = 1;
const DUPLICATE: u32 = 2;

/**
 * Reads ids[tokens, topk] and writes targets[tokens, topk]: an expert's only target, or candidate `token % count`.
 *
 * @param idType 0..7: i8, u8, i16, u16, i32, u32, i64, u64
 * @param job the ROUTE block
 * @returns 0, 1 for an id outside [-1, experts), 2 for an expert twice in one token
 */
export function route(idType: u32, ids: usize, job: usize): u32 {
  switch (idType) {
    case 0:
      return routeAs<i8>(ids, job);
    case 1:
      return routeAs<u8>(ids, job);
    case 2:
      return routeAs<i16>(ids, job);
    case 3:
      return routeAs<u16>(ids, job);
    case 4:
      return routeAs<i32>(ids, job);
    case 5:
      return routeAs<u32>(ids, job);
    case 6:
      return routeAs<i64>(ids, job);
    default:
      return routeAs<u64>(ids, job);
  }
}

function isMasked<T>(id: T): bool {
  return isSigned<T>() ? id == <T>-1 : false;
}

function routeAs<T>(ids: usize, job: usize): u32 {
  const tokens = load<u32>(job, J.ROUTE_TOKENS << 2);
  const topk = load<u32>(job, J.ROUTE_TOPK << 2);
  const experts = <u64>load<u32>(job, J.ROUTE_EXPERTS << 2);
  const masked = load<u32>(job, J.ROUTE_MASKED << 2);
  const single = load<usize>(job, J.ROUTE_SINGLE << 2);
  const stamp = load<usize>(job, J.ROUTE_STAMP << 2);
  let targets = load<usize>(job, J.ROUTE_TARGETS << 2);
  let entry: u32 = 0;
  for (let token: u32 = 1; token <= tokens; token++) {
    for (let k: u32 = 0; k < topk; k++, entry++) {
      const id = load<T>(ids);
      ids += sizeof<T>();
      if (<u64>id < experts) {
        const at = stamp + ((<usize>id) << 2);
        if (load<u32>(at) == token) return fail(DUPLICATE, entry, job);
        store<u32>(at, token);
        store<u16>(
          targets,
          single != 0 ? load<u16>(single + ((<usize>id) << 1)) : replica(<usize>id, token - 1, job),
        );
      } else if (isMasked<T>(id)) {
        store<u16>(targets, masked);
      } else {
        return fail(BAD_ID, entry, job);
      }
      targets += 2;
    }
  }
  return OK;
}

/** The instance to which a token's row for a replicated expert goes. */
function replica(expert: usize, token: u32, job: usize): u16 {
  const word = expert << 2;
  const pick =
    load<u32>(load<usize>(job, J.ROUTE_FIRST << 2) + word) +
    (token % load<u32>(load<usize>(job, J.ROUTE_COUNT << 2) + word));
  return load<u16>(load<usize>(job, J.ROUTE_CANDIDATES << 2) + ((<usize>pick) << 1));
}

function fail(kind: u32, entry: u32, job: usize): u32 {
  store<u32>(job, entry, J.ROUTE_ENTRY << 2);
  return kind;
}
