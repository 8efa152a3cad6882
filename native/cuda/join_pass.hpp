// Joins the tables of a device's ranks: for each rank by `threads` threads, of which this is number `thread`;
// on processors by one. Nothing is written twice, so the order does not matter.
#pragma once

#include "plan_tables.hpp"

namespace fusco::cuda {

struct JoinParams {
  PlanSizes sizes;
  RankBits local;  // the device's ranks
  uint32_t localRanks;
  uint32_t rankOf[maxRanks];   // local index -> rank
  uint8_t *buffers[maxRanks];  // plan buffers, by local index
  uint32_t hasOthers;          // there are other devices, so that there are one-pass tables
  DevicePlanHead *head;
  Place *place;
  PaddingRange *paddings;
  OnePassHead *onePass;
  Place *send;
  SumTerm *terms;
  uint32_t *arrival;
  uint32_t *arrivalRow;
};

FUSCO_ON_BOTH inline PlanBuffer bufferOf(const JoinParams &params, uint32_t local) {
  PlanBuffer buffer;
  layPlanBuffer(params.sizes, params.buffers[local], buffer);
  return buffer;
}

template <class T>
FUSCO_ON_BOTH void copyTable(T *to, const T *from, uint64_t count, uint64_t thread, uint64_t threads) {
  for (uint64_t i = thread; i < count; i += threads) to[i] = from[i];
}

// The heads and the padding; `start` is the rank's first token on the device.
FUSCO_ON_BOTH inline void joinHeads(const JoinParams &params, const PlanBuffer &own, uint32_t local,
                                    uint32_t start, uint64_t thread, uint64_t threads) {
  const PlanSizes &sizes = params.sizes;
  const uint32_t rank = params.rankOf[local];
  const bool isLast = local == params.localRanks - 1;
  uint32_t before = 0;
  for (uint32_t other = 0; other < local; other++) before += bufferOf(params, other).head->paddings;
  const uint32_t paddings = own.head->paddings;
  copyTable(params.paddings + before, own.paddings, paddings, thread, threads);
  if (thread == 0) {
    layDeviceRank(*params.head, local, rank, start);
    if (isLast) {
      layDeviceHead(*params.head, sizes, params.localRanks, start + own.tokens[rank], before + paddings);
    }
  }
  if (params.hasOthers == 0) return;
  if (thread == 0) layOnePassRank(*params.onePass, sizes, params.local, rank, start, own.tokens[rank]);
  if (!isLast) return;
  uint32_t most = 0;
  for (uint32_t of = 0; of < sizes.ranks; of++) {
    const uint32_t tokens = own.tokens[of];
    most = tokens > most ? tokens : most;
    if (thread == of % threads && !params.local.has(of)) {
      layOnePassRank(*params.onePass, sizes, params.local, of, 0, tokens);
    }
  }
  if (thread == 0) layOnePassSizes(*params.onePass, sizes, params.local, most);
}

FUSCO_ON_BOTH inline void joinRank(const JoinParams &params, uint32_t local, uint64_t thread,
                                   uint64_t threads) {
  const PlanSizes &sizes = params.sizes;
  const PlanBuffer own = bufferOf(params, local);
  uint32_t start = 0;
  for (uint32_t other = 0; other < local; other++) start += own.tokens[params.rankOf[other]];
  const uint64_t first = uint64_t{start} * sizes.topk;
  const uint64_t entries = uint64_t{own.tokens[params.rankOf[local]]} * sizes.topk;
  copyTable(params.place + first, own.place, entries, thread, threads);
  joinHeads(params, own, local, start, thread, threads);
  if (params.hasOthers == 0) return;
  copyTable(params.send + first, own.send, entries, thread, threads);
  copyTable(params.terms + first, own.terms, entries, thread, threads);
  const uint64_t capacity = uint64_t{sizes.ranks - params.localRanks} * sizes.maxTokens;
  for (uint32_t from = 0; from < sizes.ranks; from++) {
    if (params.local.has(from)) continue;
    const uint64_t at = arrivalStart(sizes, params.local, from);
    const uint64_t to = local * capacity + at;
    const uint64_t tokens = own.tokens[from];
    copyTable(params.arrival + to * sizes.topk, own.arrival + at * sizes.topk, tokens * sizes.topk, thread,
              threads);
    copyTable(params.arrivalRow + to, own.arrivalRow + at, tokens, thread, threads);
  }
}

}  // namespace fusco::cuda
