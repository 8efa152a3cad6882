// Sizes of a plan that was made on a device, as far as the host knows them, for the checks of calls.
#pragma once

#include <algorithm>

#include "fusco.h"
#include "plan.hpp"
#include "plan_sizes.hpp"

namespace fusco::cuda {

// What the host knows of one rank's plan.
struct HostKnown {
  int64_t tokens = -1;    // -1: nothing
  int64_t recvRows = -1;  // since the host has asked for it
};

// The sizes of a plan with these options, for `ranks` ranks whose tokens and rows are to be set.
inline std::unique_ptr<fusco_plan> bufferedSizes(const planning::Spec &spec, std::shared_ptr<Context> context,
                                                 uint32_t ranks) {
  auto plan = std::make_unique<fusco_plan>();
  plan->context = std::move(context);
  plan->ranks = ranks;
  plan->ranksPerNode = spec.ranksPerNode;
  plan->topk = spec.topk;
  plan->instances = spec.placement.instances;
  plan->isHierarchical = !spec.isFlat();
  plan->tree = treeOf(spec.strategy, spec.partial, spec.sum);
  plan->rank.resize(ranks);
  return plan;
}

// Sets tokens and rows of every rank before the checks of a call: what the host knows; the bound, if there is
// one; else as many as the call's buffers hold, since only the device knows.
class SizesOfCall {
 public:
  SizesOfCall(fusco_plan &plan, const PlanSizes &sizes, const std::vector<HostKnown> &known, bool isCaptured)
      : plan_(plan), sizes_(sizes), known_(known), isCaptured_(isCaptured) {
    for (RankPlan &part : plan.rank) {
      part.tokens = sizes.maxTokens;
      part.recvRows = FUSCO_MAX_ROWS;
    }
  }

  // Buffers with a row for each token, and for each row received.
  void tokens(const fusco_buffer *buffers, uint64_t rowBytes) {
    lower(buffers, rowBytes, [](RankPlan &part) -> uint32_t & { return part.tokens; });
  }
  void received(const fusco_buffer *buffers, uint64_t rowBytes) {
    lower(buffers, rowBytes, [](RankPlan &part) -> uint32_t & { return part.recvRows; });
  }
  void settle() {
    const auto most = static_cast<uint32_t>(std::min<uint64_t>(mostRecvRows(sizes_), FUSCO_MAX_ROWS));
    plan_.tokens = 0;
    for (uint32_t rank = 0; rank < plan_.ranks; rank++) {
      RankPlan &part = plan_.rank[rank];
      const HostKnown &known = known_[rank];
      if (known.tokens >= 0) part.tokens = static_cast<uint32_t>(known.tokens);
      if (sizes_.maxRecvRows < FUSCO_MAX_ROWS) {
        part.recvRows = std::min(most, sizes_.maxRecvRows);
      } else if (isCaptured_) {
        // A replay may receive more rows than the capture.
        part.recvRows = most;
      } else if (known.recvRows >= 0) {
        part.recvRows = static_cast<uint32_t>(known.recvRows);
      }
      plan_.tokens += part.tokens;
    }
  }

 private:
  template <class F>
  void lower(const fusco_buffer *buffers, uint64_t rowBytes, F sizeOf) {
    if (buffers == nullptr || rowBytes == 0) return;
    for (uint32_t rank = 0; rank < plan_.ranks; rank++) {
      uint32_t &size = sizeOf(plan_.rank[rank]);
      size = static_cast<uint32_t>(std::min<uint64_t>(size, buffers[rank].bytes / rowBytes));
    }
  }

  fusco_plan &plan_;
  const PlanSizes &sizes_;
  const std::vector<HostKnown> &known_;
  const bool isCaptured_;
};

inline void fitSizes(SizesOfCall &sizes, const fusco_dispatch_call &call, uint32_t topk) {
  for (uint32_t p = 0; p < call.payload_count && call.payloads != nullptr; p++) {
    const fusco_payload &payload = call.payloads[p];
    sizes.tokens(payload.from, payload.row_bytes * (payload.per == FUSCO_PER_ENTRY ? topk : 1));
    sizes.received(payload.to, payload.row_bytes);
  }
  sizes.received(call.origins, originBytes);
  sizes.tokens(call.scale, weightBytes * topk);
  sizes.settle();
}

inline void fitSizes(SizesOfCall &sizes, const fusco_combine_call &call, uint32_t topk) {
  sizes.received(call.from, call.row_bytes);
  sizes.tokens(call.to, call.row_bytes);
  sizes.tokens(call.weights, weightBytes * topk);
  sizes.settle();
}

inline void fitSizes(SizesOfCall &sizes, const fusco_weight_gradient_call &call, uint32_t topk) {
  sizes.tokens(call.output_gradient, call.row_bytes);
  sizes.received(call.from, call.row_bytes);
  sizes.tokens(call.to, weightBytes * topk);
  sizes.settle();
}

inline void fitSizes(SizesOfCall &sizes, const fusco_combine_gradient_call &call, uint32_t topk) {
  sizes.tokens(call.output_gradient, call.row_bytes);
  sizes.received(call.from, call.row_bytes);
  sizes.tokens(call.weights, weightBytes * topk);
  sizes.received(call.to, call.row_bytes);
  sizes.tokens(call.weights_gradient, weightBytes * topk);
  sizes.received(call.origins, originBytes);
  sizes.settle();
}

}  // namespace fusco::cuda
