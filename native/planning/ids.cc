#include "ids.hpp"

#include "plan_layout.h"

namespace fusco::planning {

void checkIds(const fusco_ids &ids, uint32_t rank, uint32_t topk) {
  const uint32_t bytes = idBytes(ids.dtype, rank);
  if (ids.topk != topk) {
    throw Failure(FUSCO_E_ROUTING_SHAPE, "rank %u: topk %u differs from the options' topk %u", rank, ids.topk,
                  topk)
        .atRank(rank)
        .limited(ids.topk, topk);
  }
  const uint64_t entries = uint64_t{ids.tokens} * topk;
  if (entries > FUSCO_MAX_ROWS) {
    throw Failure(FUSCO_E_LIMIT, "rank %u: %u tokens x topk %u is outside 0..%d entries", rank, ids.tokens,
                  topk, FUSCO_MAX_ROWS)
        .atRank(rank)
        .limited(entries, FUSCO_MAX_ROWS);
  }
  if (entries == 0) return;
  if (ids.data == nullptr) {
    throw Failure(FUSCO_E_OPTION, "the ids of rank %u are NULL", rank).atRank(rank);
  }
  if (reinterpret_cast<uintptr_t>(ids.data) % bytes != 0) {
    throw Failure(FUSCO_E_BUFFER, "the ids of rank %u are not aligned to their %u bytes", rank, bytes)
        .atRank(rank);
  }
}

Failure badId(BadId kind, uint32_t rank, uint64_t entry, uint32_t topk, uint32_t experts, const char *shown) {
  const uint64_t token = entry / topk;
  const uint64_t k = entry % topk;
  const auto of = [&](Failure failure) {
    return failure.atRank(rank).at("/ranks/%u/tokens/%llu/k/%llu", rank, token, k);
  };
  if (kind == BadId::duplicate) {
    return of(Failure(FUSCO_E_ROUTING_DUPLICATE,
                      "rank %u token %llu k %llu: expert %s was already chosen by this token", rank, token, k,
                      shown));
  }
  return of(Failure(FUSCO_E_ROUTING_ID, "rank %u token %llu k %llu: expert %s is not -1 and not in 0..%u",
                    rank, token, k, shown, experts - 1));
}

}  // namespace fusco::planning
