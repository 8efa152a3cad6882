#include "placed_tables.hpp"

#include <algorithm>

#include "failure.hpp"
#include "ids.hpp"
#include "plan_sizes.hpp"
#include "quota_work.hpp"

namespace fusco::cuda {

namespace {

using planning::Placement;
using planning::Spec;

// Tables that are laid out one after the other, first in host memory.
class TableBytes {
 public:
  // Returns the offset of the table.
  template <class T>
  uint64_t add(const std::vector<T> &values) {
    const uint64_t at = bytes_.size();
    const auto *first = reinterpret_cast<const uint8_t *>(values.data());
    bytes_.insert(bytes_.end(), first, first + values.size() * sizeof(T));
    bytes_.resize((bytes_.size() + sizeof(uint64_t) - 1) / sizeof(uint64_t) * sizeof(uint64_t));
    return at;
  }
  const std::vector<uint8_t> &bytes() const { return bytes_; }

 private:
  std::vector<uint8_t> bytes_;
};

// Targets of each expert for the ranks of one device, one rank after the other.
struct DeviceCandidates {
  std::vector<uint32_t> first, count;
  std::vector<uint16_t> targets;
  uint32_t stride = 0;
  bool isSingle = true;

  DeviceCandidates(const Spec &spec, const std::vector<uint32_t> &ranks) {
    std::vector<planning::CandidateLists> lists;
    for (const uint32_t rank : ranks) {
      lists.push_back(planning::targetsOf(spec, rank));
      isSingle = isSingle && lists.back().isSingle();
      stride = std::max(stride, static_cast<uint32_t>(lists.back().instances.size()));
    }
    for (planning::CandidateLists &list : lists) {
      first.insert(first.end(), list.first.begin(), list.first.end());
      count.insert(count.end(), list.count.begin(), list.count.end());
      list.instances.resize(stride);
      targets.insert(targets.end(), list.instances.begin(), list.instances.end());
    }
  }
};

}  // namespace

PlacedTables::PlacedTables(CudaContext &context, uint32_t contextRank, const Spec &spec,
                           const PlanSizes &sizes, const std::vector<uint32_t> &ranks)
    : device_(context.deviceOf(contextRank)) {
  const Placement &placement = spec.placement;
  const DeviceCandidates candidates(spec, ranks);
  planning::ReplicaGroups replicas;
  if (spec.hasQuotas()) replicas = planning::groupReplicas(placement);
  TableBytes all;
  const uint64_t rankFirst = all.add(placement.rankFirst);
  const uint64_t instanceRank = all.add(placement.instanceRank);
  const uint64_t instanceNode = all.add(placement.instanceNode);
  const uint64_t instanceExpert = all.add(placement.instanceExpert);
  const uint64_t hostFirst = all.add(placement.map.offsets);
  const uint64_t hosts = all.add(placement.hosts);
  const uint64_t groupFirst = all.add(replicas.first);
  const uint64_t groupOf = all.add(replicas.groupOf);
  const uint64_t first = all.add(candidates.first);
  const uint64_t count = all.add(candidates.count);
  const uint64_t targets = all.add(candidates.targets);

  const OnDevice here(device_);
  memory_ = static_cast<uint8_t *>(context.allocRaw(contextRank, all.bytes().size()));
  cudaError_t error = cudaMemcpy(memory_, all.bytes().data(), all.bytes().size(), cudaMemcpyHostToDevice);
  // A copy from pageable memory may still be under way, and planning runs on streams that do not wait for it.
  if (error == cudaSuccess) error = cudaStreamSynchronize(nullptr);
  if (error != cudaSuccess) cudaFree(memory_);
  context.check(error, "uploading a planner's tables");
  const auto words = [&](uint64_t at) { return reinterpret_cast<const uint32_t *>(memory_ + at); };
  const auto halves = [&](uint64_t at) { return reinterpret_cast<const uint16_t *>(memory_ + at); };
  params_.sizes = sizes;
  layPlanBuffer(sizes, nullptr, params_.offsets);
  params_.placement = {words(rankFirst), halves(instanceRank), halves(instanceNode), halves(instanceExpert),
                       words(hostFirst), halves(hosts),        words(groupFirst),    words(groupOf)};
  params_.candidateFirst = candidates.isSingle ? nullptr : words(first);
  params_.candidateCount = candidates.isSingle ? nullptr : words(count);
  params_.targets = halves(targets);
  params_.targetStride = candidates.stride;
  params_.localRanks = static_cast<uint32_t>(ranks.size());
  std::copy(ranks.begin(), ranks.end(), params_.rankOf);
}

PlacedTables::~PlacedTables() {
  const OnDevice here(device_);
  // Planning in flight reads the tables.
  cudaDeviceSynchronize();
  cudaFree(memory_);
  (void)cudaGetLastError();
}

void checkIds(const fusco_ids &ids, uint32_t rank, const PlanSizes &sizes,
              const std::function<void(const void *)> &reach) {
  planning::checkIds(ids, rank, sizes.topk);
  if (ids.tokens > sizes.maxTokens) {
    throw Failure(FUSCO_E_LIMIT, "rank %u has %u tokens, the planner's max_tokens is %u", rank, ids.tokens,
                  sizes.maxTokens)
        .atRank(rank)
        .limited(ids.tokens, sizes.maxTokens);
  }
  if (ids.tokens > 0) reach(ids.data);
}

void checkPlanBuffer(const fusco_buffer &buffer, uint32_t rank, const PlanSizes &sizes) {
  const uint64_t needed = planBufferBytes(sizes);
  if (buffer.data == nullptr || buffer.bytes < needed) {
    throw Failure(FUSCO_E_BUFFER, "the plan buffer of rank %u has %llu bytes, it needs %llu", rank,
                  buffer.data == nullptr ? 0 : buffer.bytes, needed)
        .atRank(rank)
        .limited(buffer.bytes, needed);
  }
  if (reinterpret_cast<uintptr_t>(buffer.data) % planBufferAlign == 0) return;
  throw Failure(FUSCO_E_BUFFER, "the plan buffer of rank %u is not aligned to %llu bytes", rank,
                planBufferAlign)
      .atRank(rank);
}

}  // namespace fusco::cuda
