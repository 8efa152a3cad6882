#include "plan_reader.hpp"

#include <string>

#include "ids.hpp"
#include "plan_layout.h"
#include "shard_frame.hpp"

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
  std::vector<uint32_t> runRows(spec_.placement.instances), nodeRows(spec_.nodes);
  download(runRows.data(), buffer_.runRows, runRows.size() * sizeof(uint32_t));
  const uint32_t *ownNodeRows = spec_.isFlat() ? nullptr : buffer_.nodeRows + uint64_t{rank_} * spec_.nodes;
  if (!spec_.isFlat()) download(nodeRows.data(), ownNodeRows, nodeRows.size() * sizeof(uint32_t));
  const planning::ShardFrame frame(spec_, rank_, found.tokens, runRows.data(),
                                   spec_.isFlat() ? nullptr : nodeRows.data());
  if (shard.data == nullptr) return frame.bytes();
  planning::checkShardBuffer(shard, rank_, frame.bytes());
  auto *to = static_cast<uint8_t *>(shard.data);
  frame.clearGaps(to);
  const auto copy = [&](int section, const auto *table) {
    download(frame.at<uint8_t>(to, section), table, frame.elements(section) * sizeof *table);
  };
  copy(FUSCO_S_EXPERT_OFFSET, buffer_.expertOffset);
  copy(FUSCO_S_EXPERT_ROWS, buffer_.expertRows);
  copy(FUSCO_S_RUN_ROW, buffer_.recvRow);
  copy(FUSCO_S_RUN_ROWS, buffer_.recvRows);
  copy(FUSCO_S_SEND_ROW, buffer_.runRow);
  copy(FUSCO_S_SEND_ROWS, buffer_.runRows);
  copy(FUSCO_S_ENTRY_SLOT, buffer_.slot);
  copy(FUSCO_S_ENTRY_INSTANCE, buffer_.instance);
  copy(FUSCO_S_SEND_ENTRY, buffer_.sendEntry);
  if (!spec_.isFlat()) {
    copy(FUSCO_S_FORWARD_ROW, buffer_.landingRow);
    copy(FUSCO_S_FORWARD_ROWS, ownNodeRows);
    copy(FUSCO_S_FORWARD_TOKEN, buffer_.token);
    copy(FUSCO_S_FORWARD_TARGET, buffer_.target);
    copy(FUSCO_S_DISTRIBUTE_OFFSET, buffer_.offset);
    copy(FUSCO_S_DISTRIBUTE_ENTRY, buffer_.distributed);
    copy(FUSCO_S_STAGE_ROW, buffer_.sourceRow);
    copy(FUSCO_S_STAGE_ROWS, buffer_.sourceRows);
  }
  frame.writeSlices(to);
  frame.orderTiles(to);
  frame.writeHead(to, {found.recvRows, found.masked, found.stageRows, found.staged});
  return frame.bytes();
}

}  // namespace fusco::cuda
