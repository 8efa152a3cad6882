#include "device_plan.hpp"

#include <algorithm>
#include <cstring>

#include "failure.hpp"
#include "plan_layout.h"
#include "shard.hpp"

namespace fusco::cuda {

namespace {

constexpr uint64_t tableAlign = 256;

uint64_t alignTable(uint64_t bytes) { return (bytes + tableAlign - 1) / tableAlign * tableAlign; }

static_assert(sizeof(Place) == sizeof(Target), "targets are copied into places as they are");

// The tile order of each rank, checked: a permutation of every tile's entries. Empty where a rank has none.
std::vector<std::vector<uint8_t>> readOrder(const fusco_plan &plan, const fusco_plan_desc &desc,
                                            uint32_t &tileTokens) {
  std::vector<std::vector<uint8_t>> orders(plan.ranks);
  tileTokens = 0;
  for (uint32_t rank = 0; rank < plan.ranks; rank++) {
    const ShardReader reader(desc.shards[rank], rank, plan.ranks);
    const uint32_t tile = reader.word(FUSCO_W_TILE_TOKENS);
    if (rank > 0 && tile != tileTokens) {
      throw Failure(FUSCO_E_SHARD_HEAD, "rank %u has tiles of %u tokens, rank 0 of %u", rank, tile,
                    tileTokens)
          .atRank(rank);
    }
    tileTokens = tile;
    if (tile == 0) continue;
    const uint64_t entries = uint64_t{plan.rank[rank].tokens} * plan.topk;
    const uint64_t tileEntries = uint64_t{tile} * plan.topk;
    orders[rank] = reader.section<uint8_t>(FUSCO_S_TILE_ORDER);
    if (tileEntries > maxTileEntries || orders[rank].size() != entries) {
      throw Failure(FUSCO_E_SHARD_HEAD, "rank %u orders %zu entries in tiles of %llu", rank,
                    orders[rank].size(), static_cast<unsigned long long>(tileEntries))
          .atRank(rank);
    }
    for (uint64_t first = 0; first < entries; first += tileEntries) {
      const uint64_t count = std::min(tileEntries, entries - first);
      uint64_t met[maxTileEntries / 64] = {};
      for (uint64_t i = 0; i < count; i++) {
        const uint32_t at = orders[rank][first + i];
        uint64_t &word = met[at / 64];
        const uint64_t bit = uint64_t{1} << (at % 64);
        if (at >= count || (word & bit) != 0) {
          throw Failure(FUSCO_E_ENTRY, "the tile at entry %llu of rank %u is no permutation",
                        static_cast<unsigned long long>(first), rank)
              .atRank(rank)
              .at("/ranks/%u/tileOrder/%llu", rank, static_cast<unsigned long long>(first + i));
        }
        word |= bit;
      }
    }
  }
  return orders;
}

uint64_t instancesOf(const fusco_plan_desc &desc) {
  const ShardReader reader(desc.shards[0], 0, desc.ranks);
  return reader.word(FUSCO_W_INSTANCES);
}

}  // namespace

// Byte offsets of the tables in one device's memory, all of them at full capacity.
struct DevicePlan::Layout {
  uint64_t head = 0, place, stagedPlace, order, holes, landed, forwardPlace, meeting, bytes;

  explicit Layout(const fusco_cuda_capacity &capacity) {
    const uint64_t entries = capacity.tokens * capacity.topk;
    place = alignTable(sizeof(DevicePlanHead));
    stagedPlace = place + alignTable(entries * sizeof(Place));
    order = stagedPlace + alignTable(entries * sizeof(Place));
    holes = order + alignTable(entries);
    landed = holes + alignTable(capacity.instances * sizeof(Hole));
    forwardPlace = landed + alignTable(entries * sizeof(Landed));
    meeting = forwardPlace + alignTable(entries * sizeof(Place));
    bytes = meeting + tableAlign;
  }
};

DevicePlan::DevicePlan(std::shared_ptr<CudaContext> context, const fusco_cuda_capacity *capacity,
                       const fusco_cuda_plan_desc &desc)
    : context_(std::move(context)) {
  std::unique_ptr<fusco_plan> first = makePlan(context_->host, desc.plan);
  if (capacity != nullptr) capacity_ = *capacity;
  capacity_.tokens = std::max(capacity_.tokens, first->tokens);
  capacity_.topk = std::max(capacity_.topk, first->topk);
  capacity_.instances = std::max(capacity_.instances, instancesOf(desc.plan));
  if (capacity_.topk > FUSCO_MAX_TOPK || capacity_.tokens * capacity_.topk > FUSCO_MAX_ROWS ||
      capacity_.instances > FUSCO_MAX_INSTANCES) {
    throw Failure(FUSCO_E_LIMIT, "a slot for %llu tokens, topk %u",
                  static_cast<unsigned long long>(capacity_.tokens), capacity_.topk);
  }
  tables_.resize(context_->groups().size());
  for (size_t group = 0; group < tables_.size(); group++) allocate(group);
  upload(desc);
}

DevicePlan::~DevicePlan() {
  for (size_t i = 0; i < tables_.size(); i++) {
    const OnDevice here(context_->groups()[i].device);
    // Exchanges in flight read the tables.
    cudaDeviceSynchronize();
    for (uint8_t *pinned : tables_[i].pinned) cudaFreeHost(pinned);
    if (tables_[i].stream != nullptr) cudaStreamDestroy(tables_[i].stream);
    cudaFree(tables_[i].memory);
  }
  for (const auto &[key, staged] : staging_) cudaFree(staged.rows);
  (void)cudaGetLastError();
}

void DevicePlan::allocate(size_t index) {
  const DeviceGroup &group = context_->groups()[index];
  const OnDevice here(group.device);
  PlanMemory &tables = tables_[index];
  const Layout layout(capacity_);
  tables.memory = static_cast<uint8_t *>(context_->allocRaw(group.ranks.front(), layout.bytes));
  bytes_ += layout.bytes;
  context_->check(cudaStreamCreateWithFlags(&tables.stream, cudaStreamNonBlocking),
                  "creating an upload stream");
  for (uint8_t *&pinned : tables.pinned) {
    context_->check(cudaMallocHost(reinterpret_cast<void **>(&pinned), layout.meeting),
                    "allocating pinned memory");
  }
  for (Event &event : tables.uploaded) event.create(group.device, false);
  tables.used.create(group.device, false);
  uint8_t *at = tables.memory;
  tables.view = {
      reinterpret_cast<DevicePlanHead *>(at + layout.head), reinterpret_cast<Place *>(at + layout.place),
      reinterpret_cast<Place *>(at + layout.stagedPlace),   at + layout.order,
      reinterpret_cast<Hole *>(at + layout.holes),          reinterpret_cast<Landed *>(at + layout.landed),
      reinterpret_cast<Place *>(at + layout.forwardPlace)};
  tables.meeting = reinterpret_cast<uint32_t *>(at + layout.meeting);
  context_->check(cudaMemsetAsync(tables.meeting, 0, tableAlign, tables.stream), "clearing a slot");
}

void DevicePlan::checkCapacity(const fusco_plan &plan) const {
  if (plan.tokens <= capacity_.tokens && plan.topk <= capacity_.topk) return;
  throw Failure(FUSCO_E_LIMIT, "%llu tokens, topk %u; the slot holds %llu and %u",
                static_cast<unsigned long long>(plan.tokens), plan.topk,
                static_cast<unsigned long long>(capacity_.tokens), capacity_.topk)
      .limited(plan.tokens, capacity_.tokens);
}

void DevicePlan::upload(const fusco_cuda_plan_desc &desc) {
  std::unique_ptr<fusco_plan> plan = makePlan(context_->host, desc.plan);
  if (plan->ranks != context_->ranks()) {
    throw Failure(FUSCO_E_RANKS, "a plan of %u ranks for a context of %u", plan->ranks, context_->ranks())
        .limited(plan->ranks, context_->ranks());
  }
  checkCapacity(*plan);
  const uint64_t instances = instancesOf(desc.plan);
  if (instances > capacity_.instances) {
    throw Failure(FUSCO_E_LIMIT, "%llu instances; the slot holds %llu",
                  static_cast<unsigned long long>(instances),
                  static_cast<unsigned long long>(capacity_.instances))
        .limited(instances, capacity_.instances);
  }
  uint32_t tileTokens = 0;
  const auto order = readOrder(*plan, desc.plan, tileTokens);
  ForwardTables forward;
  const bool forwards = plan->tree != Tree::none && desc.groups != nullptr;
  if (forwards) forward = readForward(*plan, desc);
  for (size_t group = 0; group < tables_.size(); group++) {
    fill(group, *plan, forwards ? &forward : nullptr, tileTokens, order);
  }
  plan_ = std::move(plan);
  forwards_ = forwards;
  stageRows_ = std::move(forward.stageRows);
  tileTokens_ = tileTokens;
  generation_++;
}

void DevicePlan::fill(size_t index, const fusco_plan &plan, const ForwardTables *forward, uint32_t tileTokens,
                      const std::vector<std::vector<uint8_t>> &order) {
  const DeviceGroup &group = context_->groups()[index];
  PlanMemory &tables = tables_[index];
  const OnDevice here(group.device);
  const Layout layout(capacity_);
  const size_t turn = generation_ % 2;
  uint8_t *pinned = tables.pinned[turn];
  // The upload before last has left this buffer; that is the only wait of the host.
  context_->check(cudaEventSynchronize(tables.uploaded[turn].get()), "waiting for an upload");
  auto *head = reinterpret_cast<DevicePlanHead *>(pinned + layout.head);
  *head = {};
  head->topk = plan.topk;
  head->localRanks = static_cast<uint32_t>(group.ranks.size());
  head->tileTokens = tileTokens;
  head->ranksPerNode = plan.ranksPerNode;
  head->tree = static_cast<uint32_t>(plan.tree);
  uint64_t entries = 0;
  uint64_t places = 0;
  auto *holes = reinterpret_cast<Hole *>(pinned + layout.holes);
  auto *landed = reinterpret_cast<Landed *>(pinned + layout.landed);
  for (size_t i = 0; i < group.ranks.size(); i++) {
    const uint32_t rank = group.ranks[i];
    const RankPlan &part = plan.rank[rank];
    head->rankOf[i] = rank;
    head->originOf[i] = rank;
    head->tokenStart[i] = head->tokens;
    head->tokens += part.tokens;
    std::memcpy(pinned + layout.place + entries * sizeof(Place), part.targets.data(),
                part.targets.size() * sizeof(Place));
    if (!order[rank].empty())
      std::memcpy(pinned + layout.order + entries, order[rank].data(), order[rank].size());
    for (const RowRange &range : part.padding) holes[head->holes++] = {rank, range.first, range.rows};
    if (forward != nullptr) {
      const auto &staged = forward->stagedPlace[rank];
      std::memcpy(pinned + layout.stagedPlace + entries * sizeof(Place), staged.data(),
                  staged.size() * sizeof(Place));
      for (Landed row : forward->landed[rank]) {
        row.firstPlace += static_cast<uint32_t>(places);
        landed[head->landed++] = row;
      }
      const auto &hops = forward->places[rank];
      std::memcpy(pinned + layout.forwardPlace + places * sizeof(Place), hops.data(),
                  hops.size() * sizeof(Place));
      places += hops.size();
    }
    entries += part.targets.size();
  }
  head->tokenStart[group.ranks.size()] = head->tokens;

  context_->check(cudaStreamWaitEvent(tables.stream, tables.used.get(), 0), "waiting for an exchange");
  const auto send = [&](uint64_t offset, uint64_t bytes) {
    if (bytes == 0) return;
    context_->check(cudaMemcpyAsync(tables.memory + offset, pinned + offset, bytes, cudaMemcpyHostToDevice,
                                    tables.stream),
                    "uploading a plan");
  };
  send(layout.head, sizeof(DevicePlanHead));
  send(layout.place, entries * sizeof(Place));
  if (tileTokens > 0) send(layout.order, entries);
  send(layout.holes, head->holes * sizeof(Hole));
  if (forward != nullptr) {
    send(layout.stagedPlace, entries * sizeof(Place));
    send(layout.landed, head->landed * sizeof(Landed));
    send(layout.forwardPlace, places * sizeof(Place));
  }
  context_->check(cudaEventRecord(tables.uploaded[turn].get(), tables.stream), "recording an upload");
}

uint8_t *DevicePlan::staging(uint32_t rank, uint32_t index, uint64_t rowBytes) {
  if (stageRows_.empty() || stageRows_[rank] == 0) return nullptr;
  const uint64_t bytes = stageRows_[rank] * rowBytes;
  Staged &staged = staging_[{rank, index}];
  if (staged.bytes >= bytes) return staged.rows;
  if (context_->capturing != nullptr) {
    throw Failure(FUSCO_E_MEMORY,
                  "staging rows cannot be allocated in a capture: run the dispatch once before it")
        .atRank(rank);
  }
  const OnDevice here(context_->deviceOf(rank));
  context_->check(cudaFree(staged.rows), "freeing staging rows");
  bytes_ -= staged.bytes;
  staged = {};
  staged.rows = static_cast<uint8_t *>(context_->allocRaw(rank, bytes));
  staged.bytes = bytes;
  bytes_ += bytes;
  return staged.rows;
}

void DevicePlan::beginUse() {
  for (size_t i = 0; i < tables_.size(); i++) {
    const cudaStream_t leader = context_->leader(context_->groups()[i]);
    const Event &uploaded = tables_[i].uploaded[(generation_ + 1) % 2];
    context_->check(cudaStreamWaitEvent(leader, uploaded.get(), 0), "waiting for an upload");
  }
}

void DevicePlan::endUse() {
  for (size_t i = 0; i < tables_.size(); i++) {
    const cudaStream_t leader = context_->leader(context_->groups()[i]);
    context_->check(cudaEventRecord(tables_[i].used.get(), leader), "recording the use of a plan");
  }
}

}  // namespace fusco::cuda
