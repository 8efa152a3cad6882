#include "device_plan.hpp"

#include <algorithm>
#include <cstring>

namespace fusco::cuda {

namespace {

constexpr uint64_t tableAlign = 256;

uint64_t alignTable(uint64_t bytes) { return (bytes + tableAlign - 1) / tableAlign * tableAlign; }

// Tokens of a tile, which all ranks share, and each rank's order; see CheckedShard::tileOrder.
uint32_t readTileOrders(const CheckedPlan &checked, std::vector<std::vector<uint8_t>> &orders) {
  const uint32_t tile = checked.shards[0].word(FUSCO_W_TILE_TOKENS);
  for (uint32_t rank = 0; rank < checked.shards.size(); rank++) {
    const CheckedShard &shard = checked.shards[rank];
    if (shard.word(FUSCO_W_TILE_TOKENS) != tile) {
      throw shard.refused(FUSCO_E_SHARD_HEAD, "rank %u has tiles of %u tokens, rank 0 of %u", rank,
                          shard.word(FUSCO_W_TILE_TOKENS), tile);
    }
    orders.push_back(shard.tileOrder());
  }
  return tile;
}

}  // namespace

// Byte offsets of the tables in one device's memory, all of them at full capacity. The pinned buffers are
// laid out in the same way, without the barrier.
struct UploadedPlan::Layout {
  uint64_t head = 0, place, order, paddings, onePass, barrier, bytes;
  OnePassLayout onePassTables;

  // `locals` ranks are on the device; 0: no one-pass tables.
  Layout(const fusco_cuda_capacity &capacity, size_t locals)
      : onePassTables(locals == 0 ? 0 : capacity.tokens, locals == 0 ? 0 : capacity.tokens, capacity.topk,
                      static_cast<uint32_t>(locals)) {
    const uint64_t entries = capacity.tokens * capacity.topk;
    place = alignTable(sizeof(DevicePlanHead));
    order = place + alignTable(entries * sizeof(Place));
    paddings = order + alignTable(entries);
    onePass = paddings + alignTable(capacity.instances * sizeof(PaddingRange));
    barrier = onePass + (locals == 0 ? 0 : alignTable(onePassTables.bytes));
    bytes = barrier + tableAlign;
  }
};

UploadedPlan::UploadedPlan(std::shared_ptr<CudaContext> context, const fusco_cuda_capacity &capacity,
                           const fusco_plan_desc &desc)
    : DevicePlan(std::move(context)), uploads_(context_->groups().size()) {
  CheckedPlan checked = checkPlan(context_->host, desc);
  capacity_ = capacity;
  capacity_.tokens = std::max(capacity_.tokens, checked.plan->tokens);
  capacity_.topk = std::max(capacity_.topk, checked.plan->topk);
  capacity_.instances = std::max<uint64_t>(capacity_.instances, checked.plan->instances);
  if (capacity_.topk > FUSCO_MAX_TOPK || capacity_.tokens * capacity_.topk > FUSCO_MAX_ROWS ||
      capacity_.instances > FUSCO_MAX_INSTANCES) {
    throw Failure(FUSCO_E_LIMIT, "a device plan for %llu tokens, topk %u, %llu instances", capacity_.tokens,
                  capacity_.topk, capacity_.instances);
  }
  for (size_t group = 0; group < memory_.size(); group++) allocate(group);
  install(std::move(checked));
}

UploadedPlan::~UploadedPlan() {
  for (size_t i = 0; i < uploads_.size(); i++) {
    const OnDevice here(context_->groups()[i].device);
    // Exchanges in flight read the tables.
    cudaDeviceSynchronize();
    for (uint8_t *pinned : uploads_[i].pinned) cudaFreeHost(pinned);
    if (uploads_[i].uploads != nullptr) cudaStreamDestroy(uploads_[i].uploads);
    cudaFree(uploads_[i].memory);
  }
  (void)cudaGetLastError();
}

void UploadedPlan::allocate(size_t index) {
  const DeviceGroup &group = context_->groups()[index];
  const OnDevice here(group.device);
  UploadedMemory &memory = uploads_[index];
  PlanMemory &tables = memory_[index];
  const Layout layout(capacity_, hasOnePass() ? group.ranks.size() : 0);
  memory.memory = static_cast<uint8_t *>(context_->allocRaw(group.ranks.front(), layout.bytes));
  bytes_ += layout.bytes;
  context_->check(cudaStreamCreateWithFlags(&memory.uploads, cudaStreamNonBlocking),
                  "creating an upload stream");
  for (uint8_t *&pinned : memory.pinned) {
    context_->check(cudaMallocHost(reinterpret_cast<void **>(&pinned), layout.barrier),
                    "allocating pinned memory");
  }
  for (Event &event : memory.uploaded) event.create(group.device, Timing::off);
  memory.used.create(group.device, Timing::off);
  uint8_t *at = memory.memory;
  tables.tables = {reinterpret_cast<DevicePlanHead *>(at + layout.head),
                   reinterpret_cast<Place *>(at + layout.place), at + layout.order,
                   reinterpret_cast<PaddingRange *>(at + layout.paddings)};
  if (hasOnePass()) {
    tables.onePass = layout.onePassTables.tables(at + layout.onePass, tables.tables.place, capacity_.tokens);
  }
  tables.barrier = reinterpret_cast<uint32_t *>(at + layout.barrier);
  context_->check(cudaMemsetAsync(tables.barrier, 0, tableAlign, memory.uploads),
                  "clearing the counters of a device plan");
}

void UploadedPlan::checkCapacity(const fusco_plan &plan) const {
  if (plan.tokens > capacity_.tokens || plan.topk > capacity_.topk) {
    throw Failure(FUSCO_E_LIMIT, "%llu tokens, topk %u; the device plan holds %llu and %u", plan.tokens,
                  plan.topk, capacity_.tokens, capacity_.topk)
        .limited(plan.tokens, capacity_.tokens);
  }
  if (plan.instances <= capacity_.instances) return;
  throw Failure(FUSCO_E_LIMIT, "%u instances; the device plan holds %llu", plan.instances,
                capacity_.instances)
      .limited(plan.instances, capacity_.instances);
}

uint32_t UploadedPlan::maxTokens() const {
  uint32_t tokens = 0;
  for (const RankPlan &part : plan_->rank) tokens = std::max(tokens, part.tokens);
  return tokens;
}

void UploadedPlan::upload(const fusco_plan_desc &desc) { install(checkPlan(context_->host, desc)); }

void UploadedPlan::install(CheckedPlan checked) {
  const fusco_plan &plan = *checked.plan;
  if (plan.ranks != context_->ranks()) {
    throw Failure(FUSCO_E_RANKS, "a plan of %u ranks for a context of %u", plan.ranks, context_->ranks())
        .limited(plan.ranks, context_->ranks());
  }
  checkCapacity(plan);
  std::vector<std::vector<uint8_t>> orders;
  const uint32_t tileTokens = readTileOrders(checked, orders);
  for (size_t group = 0; group < memory_.size(); group++) fill(group, plan, tileTokens, orders);
  plan_ = std::move(checked.plan);
  tileTokens_ = tileTokens;
  generation_++;
}

void UploadedPlan::fill(size_t index, const fusco_plan &plan, uint32_t tileTokens,
                        const std::vector<std::vector<uint8_t>> &order) {
  const DeviceGroup &group = context_->groups()[index];
  UploadedMemory &memory = uploads_[index];
  const OnDevice here(group.device);
  const Layout layout(capacity_, hasOnePass() ? group.ranks.size() : 0);
  const size_t turn = generation_ % 2;
  uint8_t *pinned = memory.pinned[turn];
  // The upload before last has left this buffer; that is the only wait of the host.
  context_->check(cudaEventSynchronize(memory.uploaded[turn].get()), "waiting for an upload");
  auto *head = reinterpret_cast<DevicePlanHead *>(pinned + layout.head);
  *head = {};
  head->topk = plan.topk;
  head->localRanks = static_cast<uint32_t>(group.ranks.size());
  head->tileTokens = tileTokens;
  head->ranksPerNode = plan.ranksPerNode;
  const auto put = [&](uint64_t offset, const auto &values) {
    if (!values.empty()) std::memcpy(pinned + offset, values.data(), values.size() * sizeof values[0]);
  };
  uint64_t entries = 0;
  auto *paddings = reinterpret_cast<PaddingRange *>(pinned + layout.paddings);
  for (size_t i = 0; i < group.ranks.size(); i++) {
    const uint32_t rank = group.ranks[i];
    const RankPlan &part = plan.rank[rank];
    head->rankOf[i] = rank;
    head->originOf[i] = rank;
    head->tokenStart[i] = head->tokens;
    head->tokens += part.tokens;
    put(layout.place + entries * sizeof(Place), part.places);
    put(layout.order + entries, order[rank]);
    for (const RowRange &range : part.padding) paddings[head->paddings++] = {rank, range.first, range.rows};
    entries += part.places.size();
  }
  head->tokenStart[group.ranks.size()] = head->tokens;
  if (hasOnePass()) {
    sumLandingRows_.resize(plan.ranks);
    fillOnePassTables(plan, context_->devices(), group.device, layout.onePassTables, capacity_.tokens,
                      pinned + layout.onePass, sumLandingRows_);
  }

  context_->check(cudaStreamWaitEvent(memory.uploads, memory.used.get(), 0), "waiting for an exchange");
  const auto send = [&](uint64_t offset, uint64_t bytes) {
    if (bytes == 0) return;
    context_->check(cudaMemcpyAsync(memory.memory + offset, pinned + offset, bytes, cudaMemcpyHostToDevice,
                                    memory.uploads),
                    "uploading a plan");
  };
  send(layout.head, sizeof(DevicePlanHead));
  send(layout.place, entries * sizeof(Place));
  if (tileTokens > 0) send(layout.order, entries);
  send(layout.paddings, head->paddings * sizeof(PaddingRange));
  if (hasOnePass()) send(layout.onePass, layout.onePassTables.bytes);
  context_->check(cudaEventRecord(memory.uploaded[turn].get(), memory.uploads), "recording an upload");
}

void UploadedPlan::beginUse() {
  for (size_t i = 0; i < uploads_.size(); i++) {
    const cudaStream_t leader = context_->leader(context_->groups()[i]);
    const Event &uploaded = uploads_[i].uploaded[(generation_ + 1) % 2];
    context_->check(cudaStreamWaitEvent(leader, uploaded.get(), 0), "waiting for an upload");
  }
}

void UploadedPlan::endUse() {
  for (size_t i = 0; i < uploads_.size(); i++) {
    const cudaStream_t leader = context_->leader(context_->groups()[i]);
    context_->check(cudaEventRecord(uploads_[i].used.get(), leader), "recording the use of a plan");
  }
}

}  // namespace fusco::cuda
