#include "plan_reader.hpp"

#include <string>

#include "ids.hpp"

namespace fusco::cuda {

namespace {

std::string idText(const PlanState &state) {
  const bool isUnsigned = state.idDtype == FUSCO_ID_U64 || state.idDtype == FUSCO_ID_U32 ||
                          state.idDtype == FUSCO_ID_U16 || state.idDtype == FUSCO_ID_U8;
  return isUnsigned ? std::to_string(state.badValue) : std::to_string(static_cast<int64_t>(state.badValue));
}

}  // namespace

PlanReader::PlanReader(CudaContext &context, uint32_t contextRank, const planning::Spec &spec,
                       const PlanSizes &sizes, uint8_t *buffer, uint32_t rank)
    : context_(context), contextRank_(contextRank), spec_(spec), rank_(rank) {
  layPlanBuffer(sizes, buffer, buffer_);
}

void PlanReader::download(void *to, const void *from, uint64_t bytes) const {
  if (bytes == 0) return;
  context_.check(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost), "reading a plan buffer");
}

fusco_cuda_plan_view PlanReader::view() const {
  const planning::Placement &placement = spec_.placement;
  auto view = fusco_sized<fusco_cuda_plan_view>();
  view.local_instances = placement.rankFirst[rank_ + 1] - placement.rankFirst[rank_];
  view.expert_counts = buffer_.clippedRows;
  view.expert_offsets = buffer_.clippedOffset;
  view.recv_rows = &buffer_.state->recvRows;
  view.overflow_rows = &buffer_.state->overflowRows;
  return view;
}

PlanState PlanReader::state() const {
  const OnDevice here(context_.deviceOf(contextRank_));
  PlanState found{};
  download(&found, buffer_.state, sizeof found);
  if (found.badEntry != UINT64_MAX) {
    const auto kind = static_cast<planning::BadId>(found.badEntry & 3);
    throw planning::badId(kind, rank_, found.badEntry >> 2, spec_.topk, spec_.experts, idText(found).c_str());
  }
  return found;
}

uint64_t PlanReader::packShard(const fusco_buffer &shard) const {
  const PlanState found = state();
  const OnDevice here(context_.deviceOf(contextRank_));
  const auto read = [this](void *to, const void *from, uint64_t bytes) { download(to, from, bytes); };
  return cuda::packShard(spec_, rank_, buffer_, found, read, shard);
}

}  // namespace fusco::cuda
