#include "device_planner.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <string>

#include "ids.hpp"
#include "plan_layout.h"
#include "quota_work.hpp"
#include "shard_frame.hpp"

namespace fusco::cuda {

namespace {

using planning::Placement;
using planning::Spec;

// Entries that a warp counts at least; a multiple of its lanes.
constexpr uint32_t leastTileEntries = 256;
// Words of counters for each entry of a rank, at most.
constexpr uint64_t counterWordsPerEntry = 4;

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

// Throws E_LIMIT unless every plan of these options stays within the format.
void checkLimits(const PlanSizes &sizes) {
  const uint64_t rows = uint64_t{sizes.ranks} * sizes.maxTokens * std::min(sizes.topk, sizes.maxLocal) +
                        uint64_t{sizes.maxLocal} * (sizes.align - 1);
  if (sizes.maxEntries() <= FUSCO_MAX_ROWS && rows <= FUSCO_MAX_ROWS) return;
  throw Failure(FUSCO_E_LIMIT, "max_tokens %u: a rank may receive %llu rows, the limit is %d",
                sizes.maxTokens, rows, FUSCO_MAX_ROWS)
      .limited(rows, FUSCO_MAX_ROWS);
}

std::string idText(const PlanState &state) {
  const bool isUnsigned = state.idDtype == FUSCO_ID_U64 || state.idDtype == FUSCO_ID_U32 ||
                          state.idDtype == FUSCO_ID_U16 || state.idDtype == FUSCO_ID_U8;
  return isUnsigned ? std::to_string(state.badValue) : std::to_string(static_cast<int64_t>(state.badValue));
}

}  // namespace

PlanSizes planSizes(const Spec &spec, const fusco_cuda_plan_limits &limits) {
  if (spec.maxRows > 0) {
    throw Failure(
        FUSCO_E_OPTION,
        "planning on the device has no max_rows: max_recv_rows of its limits bounds receive buffers");
  }
  if (spec.ranks > maxRanks) {
    throw Failure(FUSCO_E_OPTION, "%u ranks; the cuda backend takes 1 to %u", spec.ranks, maxRanks)
        .limited(spec.ranks, maxRanks);
  }
  const Placement &placement = spec.placement;
  PlanSizes sizes{};
  sizes.ranks = spec.ranks;
  sizes.ranksPerNode = spec.ranksPerNode;
  sizes.nodes = spec.nodes;
  sizes.experts = spec.experts;
  sizes.instances = placement.instances;
  sizes.targets = spec.targets();
  if (spec.hasQuotas()) {
    sizes.groups = static_cast<uint32_t>(planning::groupReplicas(placement).first.size()) - 1;
  }
  sizes.topk = spec.topk;
  sizes.capacity = spec.capacity;
  sizes.align = spec.align;
  sizes.maxTokens = limits.max_tokens;
  sizes.maxRecvRows = limits.max_recv_rows == 0 ? FUSCO_MAX_ROWS : limits.max_recv_rows;
  for (uint32_t rank = 0; rank < spec.ranks; rank++) {
    sizes.maxLocal = std::max(sizes.maxLocal, placement.rankFirst[rank + 1] - placement.rankFirst[rank]);
  }
  sizes.isFlat = spec.isFlat() ? 1 : 0;
  sizes.balance = spec.balance;
  checkLimits(sizes);
  // Few tiles for many targets, so that their counters take little memory.
  const auto entries = static_cast<uint32_t>(sizes.maxEntries());
  const uint64_t mostTiles = std::max<uint64_t>(1, counterWordsPerEntry * entries / sizes.targets);
  const auto wanted = static_cast<uint32_t>((entries + mostTiles - 1) / mostTiles);
  sizes.tileEntries =
      (std::max(leastTileEntries, wanted) + leastTileEntries - 1) / leastTileEntries * leastTileEntries;
  sizes.tiles = std::max(1u, (entries + sizes.tileEntries - 1) / sizes.tileEntries);
  return sizes;
}

uint64_t planBufferBytes(const PlanSizes &sizes) {
  PlanBuffer unused;
  return layPlanBuffer(sizes, nullptr, unused);
}

DevicePlanner::DevicePlanner(std::shared_ptr<CudaContext> context, const fusco_plan_options &options,
                             const fusco_cuda_plan_limits &limits)
    : context_(std::move(context)),
      spec_(planning::makeSettledSpec(options)),
      sizes_(planSizes(spec_, limits)) {
  if (spec_.ranks != context_->ranks()) {
    throw Failure(FUSCO_E_OPTION, "options of %u ranks for a context of %u", spec_.ranks, context_->ranks())
        .limited(spec_.ranks, context_->ranks());
  }
  tables_.resize(context_->groups().size());
  for (size_t i = 0; i < tables_.size(); i++) upload(tables_[i], context_->groups()[i]);
}

DevicePlanner::~DevicePlanner() {
  for (size_t i = 0; i < tables_.size(); i++) {
    const OnDevice here(context_->groups()[i].device);
    // Planning in flight reads the tables.
    cudaDeviceSynchronize();
    cudaFree(tables_[i].memory);
  }
  (void)cudaGetLastError();
}

void DevicePlanner::upload(DeviceTables &tables, const DeviceGroup &group) {
  const Placement &placement = spec_.placement;
  const DeviceCandidates candidates(spec_, group.ranks);
  planning::ReplicaGroups replicas;
  if (spec_.hasQuotas()) replicas = planning::groupReplicas(placement);
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

  const OnDevice here(group.device);
  tables.memory = static_cast<uint8_t *>(context_->allocRaw(group.ranks.front(), all.bytes().size()));
  context_->check(cudaMemcpy(tables.memory, all.bytes().data(), all.bytes().size(), cudaMemcpyHostToDevice),
                  "uploading a planner's tables");
  const auto words = [&](uint64_t at) { return reinterpret_cast<const uint32_t *>(tables.memory + at); };
  const auto halves = [&](uint64_t at) { return reinterpret_cast<const uint16_t *>(tables.memory + at); };
  PlanParams &params = tables.params;
  params.sizes = sizes_;
  params.placement = {words(rankFirst), halves(instanceRank), halves(instanceNode), halves(instanceExpert),
                      words(hostFirst), halves(hosts),        words(groupFirst),    words(groupOf)};
  params.candidateFirst = candidates.isSingle ? nullptr : words(first);
  params.candidateCount = candidates.isSingle ? nullptr : words(count);
  params.targets = halves(targets);
  params.targetStride = candidates.stride;
  params.localRanks = static_cast<uint32_t>(group.ranks.size());
  std::copy(group.ranks.begin(), group.ranks.end(), params.rankOf);
}

void DevicePlanner::checkIds(const fusco_ids &ids, uint32_t rank) const {
  planning::checkIds(ids, rank, spec_.topk);
  if (ids.tokens > sizes_.maxTokens) {
    throw Failure(FUSCO_E_LIMIT, "rank %u has %u tokens, the planner's max_tokens is %u", rank, ids.tokens,
                  sizes_.maxTokens)
        .atRank(rank)
        .limited(ids.tokens, sizes_.maxTokens);
  }
  if (ids.tokens > 0) context_->checkReach("ids", rank, ids.data);
}

std::vector<uint8_t *> DevicePlanner::checkBuffers(const fusco_buffer *buffers) const {
  const uint64_t needed = planBufferBytes(sizes_);
  std::vector<uint8_t *> addresses;
  for (uint32_t rank = 0; rank < spec_.ranks; rank++) {
    const fusco_buffer &buffer = buffers[rank];
    if (buffer.data == nullptr || buffer.bytes < needed) {
      throw Failure(FUSCO_E_BUFFER, "the plan buffer of rank %u has %llu bytes, it needs %llu", rank,
                    buffer.data == nullptr ? 0 : buffer.bytes, needed)
          .atRank(rank)
          .limited(buffer.bytes, needed);
    }
    if (reinterpret_cast<uintptr_t>(buffer.data) % planBufferAlign != 0) {
      throw Failure(FUSCO_E_BUFFER, "the plan buffer of rank %u is not aligned to %llu bytes", rank,
                    planBufferAlign)
          .atRank(rank);
    }
    // Every device writes its ranks' counts into all plan buffers.
    for (const DeviceGroup &group : context_->groups()) {
      context_->checkReach("plan buffers", group.ranks.front(), buffer.data);
    }
    addresses.push_back(static_cast<uint8_t *>(buffer.data));
  }
  return addresses;
}

void DevicePlanner::plan(const std::vector<fusco_ids> &ids, const std::vector<uint8_t *> &buffers) {
  for (uint32_t rank = 0; rank < spec_.ranks; rank++) checkIds(ids[rank], rank);
  for (DeviceTables &tables : tables_) {
    for (uint32_t local = 0; local < tables.params.localRanks; local++) {
      const fusco_ids &own = ids[tables.params.rankOf[local]];
      tables.params.ids[local] = {own.data, own.tokens, own.dtype};
    }
    std::copy(buffers.begin(), buffers.end(), tables.params.buffers);
  }
  const auto launchAll = [&](cudaError_t (*launch)(const PlanParams &, cudaStream_t), const char *what) {
    for (size_t i = 0; i < tables_.size(); i++) {
      const DeviceGroup &group = context_->groups()[i];
      const OnDevice here(group.device);
      context_->check(launch(tables_[i].params, context_->leader(group)), what);
    }
  };
  context_->ready();
  launchAll(launchPlanCounts, "launching the counts of a plan");
  context_->orderLeaders();
  launchAll(launchPlanSlots, "launching the slots of a plan");
  if (!spec_.isFlat()) {
    context_->orderLeaders();
    launchAll(launchPlanForward, "launching the forwarding of a plan");
  }
  context_->done();
}

PlanBuffer BufferedPlan::addresses(uint32_t rank) const {
  planner_->context().checkRank(rank);
  PlanBuffer buffer;
  layPlanBuffer(planner_->sizes(), buffers_[rank], buffer);
  return buffer;
}

void BufferedPlan::download(void *to, const void *from, uint64_t bytes) const {
  if (bytes == 0) return;
  planner_->context().check(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost), "reading a plan buffer");
}

fusco_cuda_plan_view BufferedPlan::view(uint32_t rank) const {
  const PlanBuffer buffer = addresses(rank);
  const Placement &placement = planner_->spec().placement;
  auto view = fusco_sized<fusco_cuda_plan_view>();
  view.local_instances = placement.rankFirst[rank + 1] - placement.rankFirst[rank];
  view.expert_counts = buffer.clippedRows;
  view.expert_offsets = buffer.clippedOffset;
  view.recv_rows = &buffer.state->recvRows;
  view.overflow_rows = &buffer.state->overflowRows;
  return view;
}

PlanState BufferedPlan::finished(uint32_t rank) const {
  const PlanBuffer buffer = addresses(rank);
  CudaContext &context = planner_->context();
  const OnDevice here(context.deviceOf(rank));
  context.check(cudaStreamSynchronize(context.stream(rank)), "waiting for planning");
  PlanState state{};
  download(&state, buffer.state, sizeof state);
  if (state.badEntry != UINT64_MAX) {
    const auto kind = static_cast<planning::BadId>(state.badEntry & 3);
    const Spec &spec = planner_->spec();
    throw planning::badId(kind, rank, state.badEntry >> 2, spec.topk, spec.experts, idText(state).c_str());
  }
  return state;
}

uint64_t BufferedPlan::packShard(uint32_t rank, const fusco_buffer &shard) const {
  const PlanState state = finished(rank);
  const PlanBuffer from = addresses(rank);
  const Spec &spec = planner_->spec();
  const OnDevice here(planner_->context().deviceOf(rank));
  std::vector<uint32_t> runRows(spec.placement.instances), nodeRows(spec.nodes);
  download(runRows.data(), from.runRows, runRows.size() * sizeof(uint32_t));
  const uint32_t *ownNodeRows = spec.isFlat() ? nullptr : from.nodeRows + uint64_t{rank} * spec.nodes;
  if (!spec.isFlat()) download(nodeRows.data(), ownNodeRows, nodeRows.size() * sizeof(uint32_t));
  const planning::ShardFrame frame(spec, rank, state.tokens, runRows.data(),
                                   spec.isFlat() ? nullptr : nodeRows.data());
  if (shard.data == nullptr) return frame.bytes();
  planning::checkShardBuffer(shard, rank, frame.bytes());
  auto *to = static_cast<uint8_t *>(shard.data);
  frame.clearGaps(to);
  const auto copy = [&](int section, const auto *table) {
    download(frame.at<uint8_t>(to, section), table, frame.elements(section) * sizeof *table);
  };
  copy(FUSCO_S_EXPERT_OFFSET, from.expertOffset);
  copy(FUSCO_S_EXPERT_ROWS, from.expertRows);
  copy(FUSCO_S_RUN_ROW, from.recvRow);
  copy(FUSCO_S_RUN_ROWS, from.recvRows);
  copy(FUSCO_S_SEND_ROW, from.runRow);
  copy(FUSCO_S_SEND_ROWS, from.runRows);
  copy(FUSCO_S_ENTRY_SLOT, from.slot);
  copy(FUSCO_S_ENTRY_INSTANCE, from.instance);
  copy(FUSCO_S_SEND_ENTRY, from.sendEntry);
  if (!spec.isFlat()) {
    copy(FUSCO_S_FORWARD_ROW, from.landingRow);
    copy(FUSCO_S_FORWARD_ROWS, ownNodeRows);
    copy(FUSCO_S_FORWARD_TOKEN, from.token);
    copy(FUSCO_S_FORWARD_TARGET, from.target);
    copy(FUSCO_S_DISTRIBUTE_OFFSET, from.offset);
    copy(FUSCO_S_DISTRIBUTE_ENTRY, from.distributed);
    copy(FUSCO_S_STAGE_ROW, from.sourceRow);
    copy(FUSCO_S_STAGE_ROWS, from.sourceRows);
  }
  frame.writeSlices(to);
  frame.orderTiles(to);
  frame.writeHead(to, {state.recvRows, state.masked, state.stageRows, state.staged});
  return frame.bytes();
}

}  // namespace fusco::cuda
