#include "nccl_planner.hpp"

#include <cstring>

#include "cuda_exchange.hpp"
#include "most_rows.hpp"
#include "options_digest.hpp"

namespace fusco::nccl {

using cuda::PlanParams;

namespace {

// What differs between the calls of a number: its digest is compared by kernels.
uint64_t digestOf(const fusco_nccl_call &call) { return call.digest ^ 0x2545f4914f6cdd1du; }

RankBits only(uint32_t rank) {
  RankBits ranks;
  ranks.add(rank);
  return ranks;
}

}  // namespace

Planner::Planner(std::shared_ptr<Group> group, const fusco_nccl_call &call, const fusco_plan_options &options,
                 const fusco_cuda_plan_limits &limits)
    : group_(std::move(group)),
      spec_(planning::makeSettledSpec(options)),
      sizes_(cuda::planSizes(spec_, limits)) {
  const Neighbors &neighbors = group_->neighbors();
  if (spec_.ranks != neighbors.ranks) {
    throw Failure(FUSCO_E_OPTION, "options of %u ranks for a group of %u", spec_.ranks, neighbors.ranks)
        .limited(spec_.ranks, neighbors.ranks);
  }
  if (!spec_.isFlat()) checkNodesOnMachines(spec_.ranksPerNode, neighbors);
  if (neighbors.ranks == 1) {
    const std::lock_guard<std::mutex> lock(group_->context().mutex);
    alone_ = std::make_shared<cuda::DevicePlanner>(group_->contextHandle(), options, limits);
    return;
  }
  group_->enter(call);
  group_->refuseCapture(FUSCO_E_OPTION, "a planner cannot be made in a capture: plan once before");
  compareOptions();
  {
    const std::lock_guard<std::mutex> lock(group_->context().mutex);
    const std::vector<uint32_t> ranks = {neighbors.rank};
    tables_ = std::make_unique<cuda::PlacedTables>(group_->context(), 0, spec_, sizes_, ranks);
  }
  if (spansMachines()) {
    for (cuda::Event *event : {&beforeWire_, &behindWire_}) {
      event->create(group_->device(), cuda::Timing::off);
    }
    return;
  }
  PeerNeed need;
  need.facts = cuda::factBytes(sizes_);
  group_->peers().reserve(call, need);
}

void Planner::compareOptions() {
  struct Told {
    planning::Digest options;
    uint32_t maxTokens, maxRecvRows;
  };
  const Neighbors &neighbors = group_->neighbors();
  const Told local = {planning::optionsDigest(spec_, 0), sizes_.maxTokens, sizes_.maxRecvRows};
  std::vector<Told> all(neighbors.ranks);
  group_->gatherOnHost(&local, all.data(), sizeof local, "comparing the options of planners");
  for (uint32_t rank = 0; rank < neighbors.ranks; rank++) {
    const bool sameOptions = all[rank].options == local.options;
    if (sameOptions && all[rank].maxTokens == local.maxTokens && all[rank].maxRecvRows == local.maxRecvRows) {
      continue;
    }
    throw Failure(FUSCO_E_PEER_MISMATCH, "rank %u plans with other %s than rank %u", rank,
                  sameOptions ? "limits" : "options", neighbors.rank)
        .atRank(rank);
  }
}

uint8_t *Planner::checkBuffer(const fusco_buffer &buffer) const {
  cuda::checkPlanBuffer(buffer, group_->neighbors().rank, sizes_);
  const std::lock_guard<std::mutex> lock(group_->context().mutex);
  group_->context().checkReach("plan buffers", 0, buffer.data);
  return static_cast<uint8_t *>(buffer.data);
}

std::unique_ptr<PlanCopy> Planner::plan(const fusco_nccl_call &call, const fusco_ids &ids, uint8_t *buffer) {
  const uint32_t self = group_->neighbors().rank;
  cuda::CudaContext &context = group_->context();
  cuda::checkIds(ids, self, sizes_, [&](const void *address) {
    const std::lock_guard<std::mutex> lock(context.mutex);
    context.checkReach("ids", 0, address);
  });
  if (alone_ != nullptr) {
    const std::lock_guard<std::mutex> lock(context.mutex);
    alone_->plan({ids}, {buffer});
    return nullptr;
  }
  const cuda::OnDevice here(group_->device());
  const cudaStream_t stream = context.stream(0);
  group_->enter(call);
  if (spansMachines()) {
    group_->refuseCapture(FUSCO_E_BACKEND,
                          "a group on several machines cannot be captured, because the host must learn how "
                          "many rows NCCL sends: plan outside of the capture");
  }
  group_->followStream(stream);
  PlanParams params = tables_->params();
  params.ids[0] = {ids.data, ids.tokens, ids.dtype};
  params.buffers[self] = buffer;
  std::unique_ptr<PlanCopy> copy;
  if (spansMachines()) {
    // First, since an allocation may wait for the device, and the gathers for other ranks.
    copy = takeCopy();
    planAcrossMachines(params, stream);
    group_->must(copy->read(buffer, stream), "reading back a plan");
  } else {
    planWithPeers(call, params, stream);
  }
  group_->leaveStream(stream);
  return copy;
}

void Planner::planWithPeers(const fusco_nccl_call &call, PlanParams &params, cudaStream_t stream) {
  const PeerMemory &peers = group_->peers();
  params.hasOthers = 1;
  for (uint32_t rank = 0; rank < spec_.ranks; rank++) {
    params.deviceRanks[rank] = only(rank);
    params.inbox[rank] = peers.factInbox(rank);
  }
  const cuda::OnePassCommon signals = peers.common({}, 1, digestOf(call));
  const uint32_t parts = cuda::planCounts | cuda::planSlots | cuda::planForward;
  group_->must(cuda::launchPlan(params, parts, &signals, stream), "launching a plan");
}

void Planner::planAcrossMachines(PlanParams &params, cudaStream_t stream) {
  const uint32_t self = params.rankOf[0];
  // Where rows go is told when the tables of exchanges are made.
  cuda::tellOwnBuffer(params, params.buffers[self]);
  const cuda::PlanBuffer buffer = cuda::tablesAt(params.offsets, params.buffers[self]);
  const auto gather = [&](uint32_t *all, uint32_t count) {
    group_->gather(all + uint64_t{self} * count, all, count * sizeof(uint32_t));
  };
  const auto launch = [&](cuda::PlanPart part) {
    group_->must(cuda::launchPlan(params, part, nullptr, stream), "launching a part of a plan");
  };
  launch(cuda::planCounts);
  onWire(stream, [&] {
    group_->round([&] {
      gather(buffer.counts, sizes_.targets);
      gather(buffer.tokens, 1);
    });
  });
  launch(cuda::planSlots);
  if (spec_.isFlat()) return;
  onWire(stream, [&] { group_->round([&] { gather(buffer.nodeRows, sizes_.nodes); }); });
  launch(cuda::planForward);
}

void Planner::onWire(cudaStream_t stream, const std::function<void()> &issue) {
  group_->record(beforeWire_, stream);
  group_->order(group_->wireStream(), beforeWire_);
  issue();
  group_->record(behindWire_, group_->wireStream());
  group_->order(stream, behindWire_);
}

std::unique_ptr<PlanCopy> Planner::takeCopy() {
  if (copies_.empty()) {
    const std::lock_guard<std::mutex> lock(group_->context().mutex);
    return std::make_unique<PlanCopy>(group_->context(), group_->device(), sizes_);
  }
  std::unique_ptr<PlanCopy> copy = std::move(copies_.back());
  copies_.pop_back();
  return copy;
}

void Planner::keep(std::unique_ptr<PlanCopy> copy) {
  if (copy != nullptr) copies_.push_back(std::move(copy));
}

BufferedPlan::BufferedPlan(std::shared_ptr<Planner> planner, uint8_t *buffer, int64_t tokens,
                           std::unique_ptr<PlanCopy> copy)
    : planner_(std::move(planner)),
      buffer_(buffer),
      copy_(std::move(copy)),
      reader_(planner_->group().context(), 0, planner_->spec(), planner_->sizes(), buffer,
              planner_->group().neighbors().rank),
      known_(1) {
  known_[0].tokens = tokens;
  const cuda::PlanSizes &sizes = planner_->sizes();
  Group &group = planner_->group();
  if (planner_->alone() != nullptr) {
    std::vector<uint32_t> known;
    if (tokens >= 0) known.push_back(static_cast<uint32_t>(tokens));
    alone_ = std::make_shared<cuda::BufferedPlan>(planner_->alone(), std::vector<uint8_t *>{buffer}, known);
    return;
  }
  if (planner_->spansMachines()) return;
  DeviceMadePlan made;
  made.sizes = *cuda::bufferedSizes(planner_->spec(), group.context().host, 1);
  made.sizes.firstRank = group.neighbors().rank;
  made.memory = cuda::exchangeTables(sizes, buffer);
  made.bytes = cuda::planBufferBytes(sizes);
  made.maxTokens = sizes.maxTokens;
  made.allTokens = uint64_t{sizes.ranks} * sizes.maxTokens;
  made.mostLandingRows = sizes.maxTokens * cuda::landingRowsPerToken(sizes, only(group.neighbors().rank));
  plan_ = std::make_shared<Plan>(planner_->groupHandle(), made);
}

// What still copies does so in front of the next plan's copy.
BufferedPlan::~BufferedPlan() { planner_->keep(std::move(copy_)); }

void BufferedPlan::prepare(const fusco_nccl_call &call, fusco_nccl_report &report) {
  if (!planner_->spansMachines()) return;
  Group &group = planner_->group();
  group.enter(call);
  group.refuseCapture(FUSCO_E_BACKEND, "exchanges of a group on several machines cannot be captured");
  if (plan_ == nullptr) {
    const uint64_t start = monotonicNs();
    if (copy_ == nullptr) {
      const cudaStream_t stream = group.context().stream(0);
      copy_ = planner_->takeCopy();
      group.followStream(stream);
      group.must(copy_->read(buffer_, stream), "reading back a plan");
    }
    group.waitFor(copy_->done(), "planning");
    group.check();
    report.readback_ns = monotonicNs() - start;
    report.readback_bytes = copy_->bytes();
    plan_ = planFrom(call, copy_->tables());
    planner_->keep(std::move(copy_));
  }
  // The exchange enters the call again, when it has checked its arguments.
  group.leave();
}

std::shared_ptr<Plan> BufferedPlan::planFrom(const fusco_nccl_call &call,
                                             const cuda::PlanBuffer &tables) const {
  const planning::Spec &spec = planner_->spec();
  const Neighbors &neighbors = planner_->group().neighbors();
  const auto read = [](void *to, const void *from, uint64_t bytes) {
    if (bytes > 0) std::memcpy(to, from, bytes);
  };
  const auto pack = [&](const fusco_buffer &shard) {
    return cuda::packShard(spec, neighbors.rank, tables, *tables.state, read, shard);
  };
  // Words: shards are aligned.
  std::vector<uint32_t> shard(pack({}) / sizeof(uint32_t) + 1);
  auto desc = fusco_sized<fusco_nccl_plan_desc>();
  desc.shard = {shard.data(), shard.size() * sizeof(uint32_t)};
  desc.shard.bytes = pack(desc.shard);
  desc.ranks_per_node = spec.ranksPerNode;
  desc.strategy = spec.strategy;
  desc.partial = spec.partial;
  desc.sum = spec.sum;
  desc.slice_rows = spec.sliceRows;
  desc.rail_groups = tables.railGroups;
  desc.first_instance = spec.placement.rankFirst.data();
  planning::GroupTables group{};
  group.rankFirst = desc.first_instance;
  group.capacity = spec.capacity;
  group.counts = spec.hasQuotas() ? tables.quotas : tables.counts;
  group.stride = spec.hasQuotas() ? spec.placement.instances : spec.targets();
  const MostRows most = mostRows(group, spec.isFlat() ? nullptr : tables.nodeRows,
                                 spec.isFlat() ? 0 : spec.ranksPerNode, neighbors);
  desc.max_entries = most.entries;
  desc.max_forwarded = most.forwarded;
  return std::make_shared<Plan>(planner_->groupHandle(), call, desc, planner_->sizes().maxRecvRows);
}

bool BufferedPlan::isCapturing() const {
  Group &group = planner_->group();
  return group.isCapturing(group.context().stream(0));
}

namespace {

// Runs an exchange of a group of one rank.
template <class F>
void runOnContext(Group &group, fusco_nccl_report &report, F run) {
  cuda::CudaContext &context = group.context();
  const std::lock_guard<std::mutex> lock(context.mutex);
  context.checkAlive();
  auto measured = fusco_sized<fusco_cuda_report>();
  const uint64_t start = monotonicNs();
  run(measured);
  report.stats = measured.stats;
  report.stats.started = start;
  report.stats.nanoseconds = monotonicNs() - start;
  report.enqueued = 1;
}

}  // namespace

void BufferedPlan::runAlone(const fusco_dispatch_call &call, fusco_nccl_report &report) {
  runOnContext(planner_->group(), report, [&](fusco_cuda_report &measured) {
    cuda::dispatch(*alone_, FUSCO_CUDA_PATH_AUTO, call, measured);
  });
}

void BufferedPlan::runAlone(const fusco_combine_call &call, fusco_nccl_report &report) {
  runOnContext(planner_->group(), report,
               [&](fusco_cuda_report &measured) { cuda::combine(*alone_, call, measured); });
}

void BufferedPlan::runAlone(const fusco_weight_gradient_call &call, fusco_nccl_report &report) {
  runOnContext(planner_->group(), report,
               [&](fusco_cuda_report &measured) { cuda::weightGradient(*alone_, call, measured); });
}

void BufferedPlan::runAlone(const fusco_combine_gradient_call &call, fusco_nccl_report &report) {
  runOnContext(planner_->group(), report,
               [&](fusco_cuda_report &measured) { cuda::combineGradient(*alone_, call, measured); });
}

fusco_nccl_bytes BufferedPlan::bytes(uint64_t rowBytes) const {
  if (plan_ != nullptr) return plan_->bytes(rowBytes);
  auto bytes = fusco_sized<fusco_nccl_bytes>();
  if (alone_ == nullptr) {
    bytes.tables = cuda::planBufferBytes(planner_->sizes());
    return bytes;
  }
  bytes.tables = alone_->bytes();
  bytes.enqueues = 1;
  return bytes;
}

cuda::PlanState BufferedPlan::finished() {
  if (alone_ != nullptr) {
    const std::lock_guard<std::mutex> lock(planner_->group().context().mutex);
    return alone_->finished(0);
  }
  Group &group = planner_->group();
  group.enter(fusco_sized<fusco_nccl_call>());
  group.refuseCapture(FUSCO_E_OPTION, "a capture cannot wait for planning: give max_recv_rows");
  cuda::Event done;
  done.create(group.device(), cuda::Timing::off);
  group.record(done, group.context().stream(0));
  group.waitFor(done.get(), "planning");
  group.check();
  // A bad id is no failure of the group.
  group.leave();
  const cuda::PlanState state = reader_.state();
  known_[0] = {state.tokens, state.recvRows};
  return state;
}

uint64_t BufferedPlan::packShard(const fusco_buffer &shard) {
  finished();
  const std::lock_guard<std::mutex> lock(planner_->group().context().mutex);
  return reader_.packShard(shard);
}

}  // namespace fusco::nccl
