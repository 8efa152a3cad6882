// From expert ids of any integer type to instances: validation, masking and the choice of a replica.

const OK: u32 = 0;
const BAD_ID: u32 = 1;
const DUPLICATE: u32 = 2;

/**
 * Reads ids[tokens, topk] and writes instances[tokens, topk] (u16; `masked` where the id is -1).
 *
 * An expert with one instance goes there; one with several goes to candidate `token % count`. The candidates
 * of expert e are candidates[first[e] .. first[e] + count[e]).
 *
 * @param idType 0..7: i8, u8, i16, u16, i32, u32, i64, u64
 * @param single address of u16[experts], the only instance of each expert; 0 where some expert has several
 * @param stamp  address of u32[experts], zeroed: token + 1 of each expert's last use
 * @param status address of one u32: the offending entry
 * @returns 0, 1 for an id outside [-1, experts), 2 for an expert twice in one token
 */
export function route(
  idType: u32,
  ids: usize,
  tokens: u32,
  topk: u32,
  experts: u32,
  single: usize,
  first: usize,
  count: usize,
  candidates: usize,
  masked: u32,
  stamp: usize,
  instances: usize,
  status: usize,
): u32 {
  if (single != 0) {
    switch (idType) {
      case 0:
        return routeSingle<i8>(ids, tokens, topk, experts, single, masked, stamp, instances, status);
      case 1:
        return routeSingle<u8>(ids, tokens, topk, experts, single, masked, stamp, instances, status);
      case 2:
        return routeSingle<i16>(ids, tokens, topk, experts, single, masked, stamp, instances, status);
      case 3:
        return routeSingle<u16>(ids, tokens, topk, experts, single, masked, stamp, instances, status);
      case 4:
        return routeSingle<i32>(ids, tokens, topk, experts, single, masked, stamp, instances, status);
      case 5:
        return routeSingle<u32>(ids, tokens, topk, experts, single, masked, stamp, instances, status);
      case 6:
        return routeSingle<i64>(ids, tokens, topk, experts, single, masked, stamp, instances, status);
      default:
        return routeSingle<u64>(ids, tokens, topk, experts, single, masked, stamp, instances, status);
    }
  }
  switch (idType) {
    case 0:
      return routeReplicas<i8>(
        ids,
        tokens,
        topk,
        experts,
        first,
        count,
        candidates,
        masked,
        stamp,
        instances,
        status,
      );
    case 1:
      return routeReplicas<u8>(
        ids,
        tokens,
        topk,
        experts,
        first,
        count,
        candidates,
        masked,
        stamp,
        instances,
        status,
      );
    case 2:
      return routeReplicas<i16>(
        ids,
        tokens,
        topk,
        experts,
        first,
        count,
        candidates,
        masked,
        stamp,
        instances,
        status,
      );
    case 3:
      return routeReplicas<u16>(
        ids,
        tokens,
        topk,
        experts,
        first,
        count,
        candidates,
        masked,
        stamp,
        instances,
        status,
      );
    case 4:
      return routeReplicas<i32>(
        ids,
        tokens,
        topk,
        experts,
        first,
        count,
        candidates,
        masked,
        stamp,
        instances,
        status,
      );
    case 5:
      return routeReplicas<u32>(
        ids,
        tokens,
        topk,
        experts,
        first,
        count,
        candidates,
        masked,
        stamp,
        instances,
        status,
      );
    case 6:
      return routeReplicas<i64>(
        ids,
        tokens,
        topk,
        experts,
        first,
        count,
        candidates,
        masked,
        stamp,
        instances,
        status,
      );
    default:
      return routeReplicas<u64>(
        ids,
        tokens,
        topk,
        experts,
        first,
        count,
        candidates,
        masked,
        stamp,
        instances,
        status,
      );
  }
}

function isMasked<T>(id: T): bool {
  return isSigned<T>() ? id == <T>-1 : false;
}

function routeSingle<T>(
  ids: usize,
  tokens: u32,
  topk: u32,
  experts: u32,
  single: usize,
  masked: u32,
  stamp: usize,
  instances: usize,
  status: usize,
): u32 {
  let entry: u32 = 0;
  for (let token: u32 = 1; token <= tokens; token++) {
    for (let k: u32 = 0; k < topk; k++, entry++) {
      const id = load<T>(ids);
      ids += sizeof<T>();
      if (<u64>id < <u64>experts) {
        const at = stamp + ((<usize>id) << 2);
        if (load<u32>(at) == token) return fail(DUPLICATE, entry, status);
        store<u32>(at, token);
        store<u16>(instances, load<u16>(single + ((<usize>id) << 1)));
      } else if (isMasked<T>(id)) {
        store<u16>(instances, masked);
      } else {
        return fail(BAD_ID, entry, status);
      }
      instances += 2;
    }
  }
  return OK;
}

function routeReplicas<T>(
  ids: usize,
  tokens: u32,
  topk: u32,
  experts: u32,
  first: usize,
  count: usize,
  candidates: usize,
  masked: u32,
  stamp: usize,
  instances: usize,
  status: usize,
): u32 {
  let entry: u32 = 0;
  for (let token: u32 = 1; token <= tokens; token++) {
    for (let k: u32 = 0; k < topk; k++, entry++) {
      const id = load<T>(ids);
      ids += sizeof<T>();
      if (<u64>id < <u64>experts) {
        const word = (<usize>id) << 2;
        if (load<u32>(stamp + word) == token) return fail(DUPLICATE, entry, status);
        store<u32>(stamp + word, token);
        const pick = load<u32>(first + word) + ((token - 1) % load<u32>(count + word));
        store<u16>(instances, load<u16>(candidates + ((<usize>pick) << 1)));
      } else if (isMasked<T>(id)) {
        store<u16>(instances, masked);
      } else {
        return fail(BAD_ID, entry, status);
      }
      instances += 2;
    }
  }
  return OK;
}

function fail(kind: u32, entry: u32, status: usize): u32 {
  store<u32>(status, entry);
  return kind;
}
