#include "joined_tables.hpp"

namespace fusco::cuda {

namespace {

uint64_t aligned(uint64_t bytes) { return (bytes + planBufferAlign - 1) / planBufferAlign * planBufferAlign; }

}  // namespace

JoinedTables::JoinedTables(const PlanSizes &sizes, uint32_t locals, bool hasOthers)
    : sizes_(sizes),
      hasOthers_(hasOthers),
      remoteTokens_(hasOthers ? uint64_t{sizes.ranks - locals} * sizes.maxTokens : 0),
      layout_(hasOthers ? uint64_t{locals} * sizes.maxTokens : 0, remoteTokens_, sizes.topk, locals) {
  place_ = aligned(sizeof(DevicePlanHead));
  paddings_ = place_ + aligned(locals * sizes.maxEntries() * sizeof(Place));
  onePass_ = paddings_ + aligned(uint64_t{locals} * sizes.maxLocal * sizeof(PaddingRange));
  barrier_ = onePass_ + aligned(layout_.bytes);
  bytes_ = barrier_ + planBufferAlign;
}

DeviceTables JoinedTables::tables(uint8_t *memory) const {
  return {reinterpret_cast<DevicePlanHead *>(memory), reinterpret_cast<Place *>(memory + place_), nullptr,
          reinterpret_cast<PaddingRange *>(memory + paddings_)};
}

OnePassTables JoinedTables::onePass(uint8_t *memory) const {
  return layout_.tables(memory + onePass_, reinterpret_cast<Place *>(memory + place_), remoteTokens_);
}

JoinParams JoinedTables::params(uint8_t *memory) const {
  JoinParams params{};
  params.sizes = sizes_;
  params.hasOthers = hasOthers_ ? 1 : 0;
  params.head = reinterpret_cast<DevicePlanHead *>(memory);
  params.place = reinterpret_cast<Place *>(memory + place_);
  params.paddings = reinterpret_cast<PaddingRange *>(memory + paddings_);
  uint8_t *onePass = memory + onePass_;
  params.onePass = reinterpret_cast<OnePassHead *>(onePass + layout_.head);
  params.send = reinterpret_cast<Place *>(onePass + layout_.send);
  params.terms = reinterpret_cast<SumTerm *>(onePass + layout_.terms);
  params.arrival = reinterpret_cast<uint32_t *>(onePass + layout_.arrival);
  params.arrivalRow = reinterpret_cast<uint32_t *>(onePass + layout_.arrivalRow);
  return params;
}

}  // namespace fusco::cuda
