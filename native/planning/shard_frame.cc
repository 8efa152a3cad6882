#include "shard_frame.hpp"

#include <algorithm>
#include <numeric>

#include "entry_passes.hpp"

namespace fusco::planning {

void checkShardBuffer(const fusco_buffer &shard, uint32_t rank, uint64_t needed) {
  if (shard.bytes < needed) {
    throw Failure(FUSCO_E_BUFFER, "the shard of rank %u needs %llu bytes, its buffer has %llu", rank, needed,
                  shard.bytes)
        .atRank(rank)
        .limited(needed, shard.bytes);
  }
  if (reinterpret_cast<uintptr_t>(shard.data) % sizeof(uint32_t) != 0) {
    throw Failure(FUSCO_E_BUFFER, "the buffer for the shard of rank %u is not aligned to 4 bytes", rank)
        .atRank(rank);
  }
}

ShardFrame::ShardFrame(const Spec &spec, uint32_t rank, uint32_t tokens, const uint32_t *runRows,
                       const uint32_t *nodeRows)
    : spec_(spec),
      rank_(rank),
      tokens_(tokens),
      direct_(directRange(spec, nodeRows == nullptr, rank)),
      kept_(std::accumulate(runRows, runRows + spec.placement.instances, uint64_t{0})),
      directRows_(std::accumulate(runRows + direct_.first, runRows + direct_.end, uint64_t{0})),
      slices_(directSlices(runRows)),
      forwardSlices_(forwardSlices(nodeRows)) {
  if (nodeRows != nullptr) forwardedRows_ = std::accumulate(nodeRows, nodeRows + spec.nodes, uint64_t{0});
  countSections(nodeRows == nullptr);
  layout_.place();
}

Slices ShardFrame::directSlices(const uint32_t *runRows) const {
  std::vector<RowRange> parts;
  uint32_t row = 0;
  for (uint32_t peer = direct_.firstRank; peer < direct_.endRank; peer++) {
    const uint32_t *first = runRows + spec_.placement.rankFirst[peer];
    const uint32_t *end = runRows + spec_.placement.rankFirst[peer + 1];
    parts.push_back({row, std::accumulate(first, end, 0u)});
    row += parts.back().rows;
  }
  return Slices(std::move(parts), direct_.firstRank, rank_ - direct_.firstRank, spec_.sliceRows);
}

Slices ShardFrame::forwardSlices(const uint32_t *nodeRows) const {
  std::vector<RowRange> parts;
  uint32_t row = 0;
  for (uint32_t node = 0; nodeRows != nullptr && node < spec_.nodes; node++) {
    parts.push_back({row, nodeRows[node]});
    row += nodeRows[node];
  }
  return Slices(std::move(parts), 0, spec_.nodeOf(rank_), spec_.sliceRows);
}

void ShardFrame::countSections(bool isFlat) {
  auto &counts = layout_.counts;
  const uint64_t local = localInstances();
  counts[FUSCO_S_EXPERT_OFFSET] = local + 1;
  counts[FUSCO_S_EXPERT_ROWS] = local;
  counts[FUSCO_S_RUN_ROW] = counts[FUSCO_S_RUN_ROWS] = local * spec_.ranks;
  counts[FUSCO_S_SEND_ROW] = counts[FUSCO_S_SEND_ROWS] = spec_.placement.instances;
  counts[FUSCO_S_SLICE] = FUSCO_SLICE_WORDS * slices_.count();
  counts[FUSCO_S_ENTRY_SLOT] = counts[FUSCO_S_ENTRY_INSTANCE] = entries();
  counts[FUSCO_S_SEND_ENTRY] = directRows_;
  counts[FUSCO_S_TILE_ORDER] = spec_.tileTokens > 0 ? entries() : 0;
  if (isFlat) return;
  counts[FUSCO_S_FORWARD_ROW] = counts[FUSCO_S_FORWARD_ROWS] = spec_.nodes;
  counts[FUSCO_S_FORWARD_TOKEN] = counts[FUSCO_S_FORWARD_TARGET] = forwardedRows_;
  counts[FUSCO_S_DISTRIBUTE_OFFSET] = forwardedRows_ + 1;
  counts[FUSCO_S_DISTRIBUTE_ENTRY] = kept_ - directRows_;
  counts[FUSCO_S_FORWARD_SLICE] = FUSCO_SLICE_WORDS * forwardSlices_.count();
  counts[FUSCO_S_STAGE_ROW] = counts[FUSCO_S_STAGE_ROWS] = spec_.ranks;
}

void ShardFrame::writeSlices(uint8_t *shard) const {
  slices_.write(at<uint32_t>(shard, FUSCO_S_SLICE));
  forwardSlices_.write(at<uint32_t>(shard, FUSCO_S_FORWARD_SLICE));
}

void ShardFrame::orderTiles(uint8_t *shard) const {
  const auto *instance = at<const uint16_t>(shard, FUSCO_S_ENTRY_INSTANCE);
  const auto *slot = at<const int32_t>(shard, FUSCO_S_ENTRY_SLOT);
  auto *order = at<uint8_t>(shard, FUSCO_S_TILE_ORDER);
  const auto end = static_cast<uint32_t>(elements(FUSCO_S_TILE_ORDER));
  const uint32_t tile = spec_.tileTokens * spec_.topk;
  for (uint32_t first = 0; first < end; first += tile) {
    const uint32_t tileEnd = std::min(end, first + tile);
    for (uint32_t entry = first; entry < tileEnd; entry++) {
      order[first + tilePosition(instance, slot, first, tileEnd, entry)] =
          static_cast<uint8_t>(entry - first);
    }
  }
}

void ShardFrame::writeHead(uint8_t *shard, const HeadCounts &counts) const {
  uint32_t words[FUSCO_SHARD_WORDS] = {};
  words[FUSCO_W_MAGIC] = FUSCO_SHARD_MAGIC;
  words[FUSCO_W_RANK] = rank_;
  words[FUSCO_W_RANKS] = spec_.ranks;
  words[FUSCO_W_TOKENS] = tokens_;
  words[FUSCO_W_TOPK] = spec_.topk;
  words[FUSCO_W_INSTANCES] = spec_.placement.instances;
  words[FUSCO_W_FIRST_INSTANCE] = firstInstance();
  words[FUSCO_W_LOCAL_INSTANCES] = localInstances();
  words[FUSCO_W_RECV_ROWS] = counts.recvRows;
  words[FUSCO_W_KEPT] = static_cast<uint32_t>(kept_);
  words[FUSCO_W_MASKED] = counts.masked;
  words[FUSCO_W_DROPPED] = static_cast<uint32_t>(entries() - counts.masked - kept_);
  words[FUSCO_W_STAGE_ROWS] = counts.stageRows;
  words[FUSCO_W_STAGED] = counts.staged;
  words[FUSCO_W_TILE_TOKENS] = spec_.tileTokens;
  layout_.writeHead(shard, words);
}

}  // namespace fusco::planning
