#include "device_planner.hpp"

#include <algorithm>

#include "failure.hpp"

namespace fusco::cuda {

namespace {

RankBits ranksOf(const DeviceGroup &group) {
  RankBits ranks;
  for (const uint32_t rank : group.ranks) ranks.add(rank);
  return ranks;
}

cudaStreamCaptureStatus captureOf(CudaContext &context) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  context.check(cudaStreamIsCapturing(context.leader(context.groups().front()), &status),
                "asking for a capture");
  return status;
}

}  // namespace

DevicePlanner::DevicePlanner(std::shared_ptr<CudaContext> context, const fusco_plan_options &options,
                             const fusco_cuda_plan_limits &limits)
    : context_(std::move(context)),
      spec_(planning::makeSettledSpec(options)),
      sizes_(planSizes(spec_, limits)),
      params_(context_->groups().size()),
      joined_(context_->groups().size()) {
  if (spec_.ranks != context_->ranks()) {
    throw Failure(FUSCO_E_OPTION, "options of %u ranks for a context of %u", spec_.ranks, context_->ranks())
        .limited(spec_.ranks, context_->ranks());
  }
  sumLandingRows_.resize(spec_.ranks);
  for (size_t i = 0; i < params_.size(); i++) {
    const DeviceGroup &group = context_->groups()[i];
    tables_.push_back(
        std::make_unique<PlacedTables>(*context_, group.ranks.front(), spec_, sizes_, group.ranks));
    makeParams(i);
    for (const uint32_t rank : group.ranks) {
      sumLandingRows_[rank] = sizes_.maxTokens * landingRowsPerToken(sizes_, ranksOf(group));
    }
  }
  for (size_t i = 0; i < params_.size(); i++) {
    const DeviceGroup &group = context_->groups()[i];
    if (group.ranks.size() > 1) joined_[i] = std::make_unique<Joined>(*context_, group, sizes_);
  }
}

DevicePlanner::Joined::Joined(CudaContext &context, const DeviceGroup &group, const PlanSizes &sizes)
    : tables(sizes, static_cast<uint32_t>(group.ranks.size()), context.groups().size() > 1),
      device(group.device) {
  const OnDevice here(device);
  used.create(device, Timing::off);
  memory = static_cast<uint8_t *>(context.allocRaw(group.ranks.front(), tables.bytes()));
  cudaMemset(tables.barrier(memory), 0, tables.barrierBytes());
  const cudaError_t error = cudaDeviceSynchronize();
  if (error != cudaSuccess) cudaFree(memory);
  context.check(error, "clearing the counters of a planner");
}

DevicePlanner::Joined::~Joined() {
  const OnDevice here(device);
  // Exchanges in flight read the tables.
  cudaDeviceSynchronize();
  cudaFree(memory);
  (void)cudaGetLastError();
}

void DevicePlanner::makeParams(size_t index) {
  PlanParams &params = params_[index];
  params = tables_[index]->params();
  params.hasOthers = context_->groups().size() > 1 ? 1 : 0;
  for (const DeviceGroup &group : context_->groups()) {
    for (const uint32_t rank : group.ranks) params.deviceRanks[rank] = ranksOf(group);
  }
}

std::vector<uint8_t *> DevicePlanner::checkBuffers(const fusco_buffer *buffers) const {
  std::vector<uint8_t *> addresses;
  for (uint32_t rank = 0; rank < spec_.ranks; rank++) {
    checkPlanBuffer(buffers[rank], rank, sizes_);
    // Every device writes its ranks' counts into all plan buffers.
    for (const DeviceGroup &group : context_->groups()) {
      context_->checkReach("plan buffers", group.ranks.front(), buffers[rank].data);
    }
    addresses.push_back(static_cast<uint8_t *>(buffers[rank].data));
  }
  return addresses;
}

void DevicePlanner::enqueue(uint32_t parts) {
  for (size_t i = 0; i < params_.size(); i++) {
    const DeviceGroup &group = context_->groups()[i];
    const OnDevice here(group.device);
    const cudaStream_t stream = context_->leader(group);
    context_->check(launchPlan(params_[i], parts, nullptr, stream), "launching a plan");
  }
}

void DevicePlanner::plan(const std::vector<fusco_ids> &ids, const std::vector<uint8_t *> &buffers) {
  for (uint32_t rank = 0; rank < spec_.ranks; rank++) {
    checkIds(ids[rank], rank, sizes_,
             [&](const void *address) { context_->checkReach("ids", rank, address); });
  }
  for (PlanParams &params : params_) {
    for (uint32_t local = 0; local < params.localRanks; local++) {
      const fusco_ids &own = ids[params.rankOf[local]];
      params.ids[local] = {own.data, own.tokens, own.dtype};
    }
    std::copy(buffers.begin(), buffers.end(), params.buffers);
  }
  const DevicesInOrder order(*context_);
  context_->ready();
  if (params_.size() == 1) {
    enqueue(planCounts | planSlots | planForward);
  } else {
    enqueue(planCounts);
    context_->orderLeaders();
    enqueue(planSlots);
    if (!spec_.isFlat()) {
      context_->orderLeaders();
      enqueue(planForward);
    }
  }
  context_->done();
}

PlanMemory DevicePlanner::memoryOf(size_t index, const std::vector<uint8_t *> &buffers) const {
  if (joined_[index] != nullptr) {
    const Joined &joined = *joined_[index];
    PlanMemory memory{joined.tables.tables(joined.memory), {}, joined.tables.barrier(joined.memory)};
    if (params_.size() > 1) memory.onePass = joined.tables.onePass(joined.memory);
    return memory;
  }
  return exchangeTables(sizes_, buffers[context_->groups()[index].ranks.front()]);
}

PlanMemory exchangeTables(const PlanSizes &sizes, uint8_t *planBuffer) {
  PlanBuffer buffer;
  layPlanBuffer(sizes, planBuffer, buffer);
  return {{buffer.head, buffer.place, nullptr, buffer.paddings},
          {buffer.onePass, buffer.place, buffer.send, buffer.terms, buffer.arrival, buffer.arrivalRow,
           sizes.maxRemoteTokens()},
          buffer.state->barrier};
}

void DevicePlanner::join(const std::vector<uint8_t *> &buffers) {
  for (size_t i = 0; i < joined_.size(); i++) {
    if (joined_[i] == nullptr) continue;
    const DeviceGroup &group = context_->groups()[i];
    const OnDevice here(group.device);
    JoinParams params = joined_[i]->tables.params(joined_[i]->memory);
    params.local = ranksOf(group);
    for (const uint32_t rank : group.ranks) {
      params.rankOf[params.localRanks] = rank;
      params.buffers[params.localRanks++] = buffers[rank];
    }
    context_->check(launchJoin(params, context_->leader(group)), "joining the tables of a device");
  }
}

void DevicePlanner::beginUse() {
  for (size_t i = 0; i < joined_.size(); i++) {
    if (joined_[i] == nullptr) continue;
    const cudaStream_t leader = context_->leader(context_->groups()[i]);
    context_->check(cudaStreamWaitEvent(leader, joined_[i]->used.get(), 0), "waiting for an exchange");
  }
}

void DevicePlanner::endUse() {
  for (size_t i = 0; i < joined_.size(); i++) {
    if (joined_[i] == nullptr) continue;
    const cudaStream_t leader = context_->leader(context_->groups()[i]);
    context_->check(cudaEventRecord(joined_[i]->used.get(), leader), "recording the use of a plan");
  }
}

BufferedPlan::BufferedPlan(std::shared_ptr<DevicePlanner> planner, std::vector<uint8_t *> buffers,
                           const std::vector<uint32_t> &tokens)
    : DevicePlan(planner->contextHandle()),
      planner_(std::move(planner)),
      buffers_(std::move(buffers)),
      known_(buffers_.size()) {
  const auto ranks = static_cast<uint32_t>(buffers_.size());
  plan_ = bufferedSizes(planner_->spec(), context_->host, ranks);
  for (size_t rank = 0; rank < tokens.size(); rank++) known_[rank].tokens = tokens[rank];
  for (size_t i = 0; i < memory_.size(); i++) memory_[i] = planner_->memoryOf(i, buffers_);
}

PlanReader BufferedPlan::reader(uint32_t rank) const {
  context_->checkRank(rank);
  return PlanReader(*context_, rank, planner_->spec(), planner_->sizes(), buffers_[rank], rank);
}

PlanState BufferedPlan::finished(uint32_t rank) {
  const PlanReader from = reader(rank);
  const OnDevice here(context_->deviceOf(rank));
  context_->check(cudaStreamSynchronize(context_->stream(rank)), "waiting for planning");
  const PlanState state = from.state();
  known_[rank] = {state.tokens, state.recvRows};
  return state;
}

uint64_t BufferedPlan::packShard(uint32_t rank, const fusco_buffer &shard) {
  finished(rank);
  return reader(rank).packShard(shard);
}

uint64_t BufferedPlan::capacityTokens() const {
  return uint64_t{planner_->sizes().ranks} * planner_->sizes().maxTokens;
}

uint64_t BufferedPlan::bytes() const { return buffers_.size() * planBufferBytes(planner_->sizes()); }

template <class Call>
void BufferedPlan::fitTo(const Call &call) {
  const bool isCaptured = captureOf(*context_) != cudaStreamCaptureStatusNone;
  SizesOfCall sizes(*plan_, planner_->sizes(), known_, isCaptured);
  fitSizes(sizes, call, plan_->topk);
}

void BufferedPlan::fit(const fusco_dispatch_call &call) { fitTo(call); }
void BufferedPlan::fit(const fusco_combine_call &call) { fitTo(call); }
void BufferedPlan::fit(const fusco_weight_gradient_call &call) { fitTo(call); }
void BufferedPlan::fit(const fusco_combine_gradient_call &call) { fitTo(call); }

}  // namespace fusco::cuda
