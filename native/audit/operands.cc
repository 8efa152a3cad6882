#include "operands.hpp"

#include <algorithm>
#include <cstring>

#include "plan_types.hpp"

namespace fusco::audit {

Operands::Operands(const Audit &audit, const fusco_audit_combine_call &call)
    : audit_(audit), call_(call), isWeighted_(call.weights.data != nullptr) {
  const uint64_t entries = uint64_t{audit.entries().tokens(call.rank)} * topk();
  if (isWeighted_ && call.weights.bytes < entries * weightBytes) {
    throw Failure(FUSCO_E_BUFFER, "the weights of rank %u have %llu bytes < %llu x 4", call.rank,
                  call.weights.bytes, entries)
        .atRank(call.rank)
        .limited(call.weights.bytes, entries * weightBytes);
  }
  if (call.outputs != nullptr) findOutputs(entries);
}

Sum Operands::of(uint32_t token) const {
  Sum sum{{}, isWeighted_};
  for (uint32_t k = 0; k < topk(); k++) {
    const uint64_t entry = uint64_t{token} * topk() + k;
    const uint16_t instance = audit_.entries().instance(call_.rank, entry);
    if (instance == noInstance) continue;
    const uint32_t rank = audit_.entries().rankOf(instance);
    const bool isCounted =
        std::any_of(sum.terms.begin(), sum.terms.end(), [&](const Term &term) { return term.rank == rank; });
    // Without weights, each rank returns one row.
    if (isCounted && !isWeighted_ && isPerToken()) continue;
    float weight = 1;
    if (isWeighted_) {
      const auto *weights = static_cast<const uint8_t *>(call_.weights.data);
      std::memcpy(&weight, weights + entry * weightBytes, weightBytes);
    }
    const uint8_t *row = hasOutputs() ? outputRow(rank, entry) : audit_.row(call_.rank, token);
    sum.terms.push_back(
        {row, weight, k, audit_.entries().expertOf(instance), rank, audit_.entries().spec().nodeOf(rank)});
  }
  return sum;
}

void Operands::findOutputs(uint64_t entries) {
  if (audit_.layout().order != FUSCO_AUDIT_ROWS_SORTED) {
    throw Failure(FUSCO_E_OPTION,
                  "outputs need a layout whose rows are sorted: which row is whose is unknown");
  }
  if (isPerToken() && isWeighted_) {
    throw Failure(FUSCO_E_OPTION,
                  "in a layout with one row per token and rank, outputs were weighted before combine");
  }
  outputRows_.assign(entries, 0);
  for (uint32_t rank = 0; rank < audit_.entries().ranks(); rank++) {
    checkData("outputs", call_.outputs[rank], rank);
    const uint64_t rows = call_.outputs[rank].bytes / audit_.rowBytes();
    const RankOrigins origins = audit_.origins(rank, rows);
    if (rows < origins.end) {
      throw Failure(FUSCO_E_BUFFER, "the outputs of rank %u have %llu rows < %llu", rank, rows, origins.end)
          .atRank(rank)
          .limited(rows, origins.end);
    }
    for (const Block &block : origins.blocks) addOutputs(rank, block, origins.of(block));
  }
}

void Operands::addOutputs(uint32_t rank, const Block &block, const Origin *expected) {
  for (size_t i = 0; i < block.count; i++) {
    if (expected[i].source != static_cast<int32_t>(call_.rank)) continue;
    const uint64_t first = static_cast<uint64_t>(expected[i].token) * topk();
    for (uint32_t k = 0; k < topk(); k++) {
      const uint16_t instance = audit_.entries().instance(call_.rank, first + k);
      const bool isHere = instance != noInstance && audit_.entries().rankOf(instance) == rank;
      if (isHere && (expected[i].k < 0 || expected[i].k == static_cast<int32_t>(k))) {
        outputRows_[first + k] = block.begin + i;
      }
    }
  }
}

}  // namespace fusco::audit
