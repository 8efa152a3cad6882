// From expert ids of any integer type to instances: validation, masking and the choice of a replica.

const OK: u32 = 0;
const BAD_ID: u32 = 1;
const DUPLICATE: u32 = 2;

// A job, eleven u32 written by the host:
const TOKENS: usize = 0;
const TOPK: usize = 4;
const EXPERTS: usize = 8;
/** What an entry without an expert becomes. */
const MASKED: usize = 12;
/** Address of u16[experts], the only instance of each expert; 0 where some expert has several. */
const SINGLE: usize = 16;
/** Addresses of u32[experts] twice: the candidates of expert e are candidates[first[e] .. first[e] + count[e]). */
const FIRST: usize = 20;
const COUNT: usize = 24;
/** Address of u16 instances. */
const CANDIDATES: usize = 28;
/** Address of u32[experts], zeroed: token + 1 of each expert's last use. */
const STAMP: usize = 32;
/** Address of u16[tokens, topk], out. */
const INSTANCES: usize = 36;
/** Out: the offending entry. */
const ENTRY: usize = 40;

/**
 * Reads ids[tokens, topk] and writes instances[tokens, topk]. An expert with one instance goes there, one with several
 * to candidate `token % count`.
 *
 * @param idType 0..7: i8, u8, i16, u16, i32, u32, i64, u64
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
  const tokens = load<u32>(job, TOKENS);
  const topk = load<u32>(job, TOPK);
  const experts = <u64>load<u32>(job, EXPERTS);
  const masked = load<u32>(job, MASKED);
  const single = load<usize>(job, SINGLE);
  const stamp = load<usize>(job, STAMP);
  let instances = load<usize>(job, INSTANCES);
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
          instances,
          single != 0 ? load<u16>(single + ((<usize>id) << 1)) : replica(<usize>id, token - 1, job),
        );
      } else if (isMasked<T>(id)) {
        store<u16>(instances, masked);
      } else {
        return fail(BAD_ID, entry, job);
      }
      instances += 2;
    }
  }
  return OK;
}

/** The instance to which a token's row for a replicated expert goes. */
function replica(expert: usize, token: u32, job: usize): u16 {
  const word = expert << 2;
  const pick =
    load<u32>(load<usize>(job, FIRST) + word) + (token % load<u32>(load<usize>(job, COUNT) + word));
  return load<u16>(load<usize>(job, CANDIDATES) + ((<usize>pick) << 1));
}

function fail(kind: u32, entry: u32, job: usize): u32 {
  store<u32>(job, entry, ENTRY);
  return kind;
}
