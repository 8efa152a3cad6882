// Replica rule `quota-1`: the entries of an expert, in order, fill the quotas of its instances one after the other.

import * as J from '../jobs';

/**
 * Replaces every entry's expert by its instance, and the masked value of experts by that of instances. The quotas of an
 * expert add up to its entries.
 *
 * @param entries u16[n], in: experts, out: instances
 * @param job     the QUOTA block
 */
export function chooseInstances(entries: usize, n: u32, job: usize): void {
  const experts = load<u32>(job, J.QUOTA_EXPERTS << 2);
  const first = load<usize>(job, J.QUOTA_FIRST << 2);
  const list = load<usize>(job, J.QUOTA_LIST << 2);
  const rows = load<usize>(job, J.QUOTA_ROWS << 2);
  const state = load<usize>(job, J.QUOTA_STATE << 2);
  for (let expert: u32 = 0; expert < experts; expert++) {
    const place = load<u32>(first + ((<usize>expert) << 2));
    take(state + ((<usize>expert) << 3), place, list, rows);
  }
  const masked = state + ((<usize>experts) << 3);
  store<u32>(masked, load<u32>(job, J.QUOTA_MASKED << 2));
  store<u32>(masked, u32.MAX_VALUE, 4);
  const end = entries + ((<usize>n) << 1);
  for (; entries < end; entries += 2) {
    const at = state + ((<usize>load<u16>(entries)) << 3);
    while (load<u32>(at, 4) == 0) take(at, (load<u32>(at) >> 16) + 1, list, rows);
    store<u32>(at, load<u32>(at, 4) - 1, 4);
    store<u16>(entries, load<u16>(at));
  }
}

/** Directs an expert's next entries to the instance at `place` of the list. State: place << 16 | instance, rows left. */
function take(state: usize, place: u32, list: usize, rows: usize): void {
  const instance = load<u16>(list + ((<usize>place) << 1));
  store<u32>(state, (place << 16) | <u32>instance);
  store<u32>(state, load<u32>(rows + ((<usize>instance) << 2)), 4);
}
