#include "plan_shard.hpp"

#include "plan_layout.h"
#include "shard_frame.hpp"

namespace fusco::cuda {

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

}  // namespace fusco::cuda
