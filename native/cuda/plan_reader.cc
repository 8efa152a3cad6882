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

uint64_t packShard(const planning::Spec &spec, uint32_t rank, const PlanBuffer &tables,
                   const PlanState &found, const ReadTable &read, const fusco_buffer &shard) {
  std::vector<uint32_t> runRows(spec.placement.instances), nodeRows(spec.nodes);
  read(runRows.data(), tables.runRows, runRows.size() * sizeof(uint32_t));
  const uint32_t *ownNodeRows = spec.isFlat() ? nullptr : tables.nodeRows + uint64_t{rank} * spec.nodes;
  if (!spec.isFlat()) read(nodeRows.data(), ownNodeRows, nodeRows.size() * sizeof(uint32_t));
  const planning::ShardFrame frame(spec, rank, found.tokens, runRows.data(),
                                   spec.isFlat() ? nullptr : nodeRows.data());
  if (shard.data == nullptr) return frame.bytes();
  planning::checkShardBuffer(shard, rank, frame.bytes());
  auto *to = static_cast<uint8_t *>(shard.data);
  frame.clearGaps(to);
  const auto copy = [&](int section, const auto *table) {
    read(frame.at<uint8_t>(to, section), table, frame.elements(section) * sizeof *table);
  };
  copy(FUSCO_S_EXPERT_OFFSET, tables.expertOffset);
  copy(FUSCO_S_EXPERT_ROWS, tables.expertRows);
  copy(FUSCO_S_RUN_ROW, tables.recvRow);
  copy(FUSCO_S_RUN_ROWS, tables.recvRows);
  copy(FUSCO_S_SEND_ROW, tables.runRow);
  copy(FUSCO_S_SEND_ROWS, tables.runRows);
  copy(FUSCO_S_ENTRY_SLOT, tables.slot);
  copy(FUSCO_S_ENTRY_INSTANCE, tables.instance);
  copy(FUSCO_S_SEND_ENTRY, tables.sendEntry);
  if (!spec.isFlat()) {
    copy(FUSCO_S_FORWARD_ROW, tables.landingRow);
    copy(FUSCO_S_FORWARD_ROWS, ownNodeRows);
    copy(FUSCO_S_FORWARD_TOKEN, tables.token);
    copy(FUSCO_S_FORWARD_TARGET, tables.target);
    copy(FUSCO_S_DISTRIBUTE_OFFSET, tables.offset);
    copy(FUSCO_S_DISTRIBUTE_ENTRY, tables.distributed);
    copy(FUSCO_S_STAGE_ROW, tables.sourceRow);
    copy(FUSCO_S_STAGE_ROWS, tables.sourceRows);
  }
  frame.writeSlices(to);
  frame.orderTiles(to);
  frame.writeHead(to, {found.recvRows, found.masked, found.stageRows, found.staged});
  return frame.bytes();
}

uint64_t PlanReader::packShard(const fusco_buffer &shard) const {
  const PlanState found = state();
  const OnDevice here(context_.deviceOf(contextRank_));
  const auto read = [this](void *to, const void *from, uint64_t bytes) { download(to, from, bytes); };
  return cuda::packShard(spec_, rank_, buffer_, found, read, shard);
}

}  // namespace fusco::cuda
