// The head and tables of a shard, and the run tables of all ranks against each other.

#include "checks.hpp"

namespace fusco::plan_file {

void checkHead(const Plan &plan, uint32_t rank) {
  const Spec &spec = plan.spec;
  const ShardView &shard = plan.shards[rank];
  const std::vector<uint32_t> &rankFirst = spec.placement.rankFirst;
  const bool isHier = !spec.isFlat();
  const uint64_t kept = shard.word(FUSCO_W_KEPT);
  const uint64_t entries = shard.entries();
  checkWord(rank, "rank", shard.word(FUSCO_W_RANK), rank);
  checkWord(rank, "ranks", shard.word(FUSCO_W_RANKS), spec.ranks);
  checkWord(rank, "topk", shard.word(FUSCO_W_TOPK), spec.topk);
  checkWord(rank, "instances", shard.word(FUSCO_W_INSTANCES), spec.placement.instances);
  checkWord(rank, "firstInstance", shard.word(FUSCO_W_FIRST_INSTANCE), rankFirst[rank]);
  const uint64_t local = shard.word(FUSCO_W_LOCAL_INSTANCES);
  checkWord(rank, "localInstances", local, rankFirst[rank + 1] - rankFirst[rank]);
  checkWord(rank, "kept + masked + dropped", kept + shard.word(FUSCO_W_MASKED) + shard.word(FUSCO_W_DROPPED),
            entries);
  checkWord(rank, "the reserved word", shard.word(FUSCO_W_RESERVED), 0);
  checkWord(rank, "tileTokens", shard.word(FUSCO_W_TILE_TOKENS), spec.tileTokens);
  if (!isHier) {
    checkWord(rank, "stageRows", shard.word(FUSCO_W_STAGE_ROWS), 0);
    checkWord(rank, "staged", shard.word(FUSCO_W_STAGED), 0);
  }
  const uint64_t forwarded = isHier ? shard.count(FUSCO_S_FORWARD_TOKEN) : 0;
  const uint64_t distributed = isHier ? shard.count(FUSCO_S_DISTRIBUTE_ENTRY) : 0;
  const auto checkCount = [&](int section, uint64_t wanted) {
    const uint64_t found = shard.count(section);
    if (found == wanted) return;
    throw defect(FUSCO_E_SHARD_HEAD, rank, "/head", "the length of section %d is %llu, not %lld", section,
                 found, static_cast<int64_t>(wanted))
        .limited(found, wanted);
  };
  checkCount(FUSCO_S_EXPERT_OFFSET, local + 1);
  checkCount(FUSCO_S_EXPERT_ROWS, local);
  checkCount(FUSCO_S_RUN_ROW, local * spec.ranks);
  checkCount(FUSCO_S_RUN_ROWS, local * spec.ranks);
  checkCount(FUSCO_S_SEND_ROW, spec.placement.instances);
  checkCount(FUSCO_S_SEND_ROWS, spec.placement.instances);
  checkCount(FUSCO_S_ENTRY_SLOT, entries);
  checkCount(FUSCO_S_ENTRY_INSTANCE, entries);
  checkCount(FUSCO_S_SEND_ENTRY, kept - distributed);
  checkCount(FUSCO_S_FORWARD_ROW, isHier ? spec.nodes : 0);
  checkCount(FUSCO_S_FORWARD_ROWS, isHier ? spec.nodes : 0);
  checkCount(FUSCO_S_FORWARD_TOKEN, forwarded);
  checkCount(FUSCO_S_FORWARD_TARGET, forwarded);
  checkCount(FUSCO_S_DISTRIBUTE_OFFSET, isHier ? forwarded + 1 : 0);
  checkCount(FUSCO_S_DISTRIBUTE_ENTRY, distributed);
  checkCount(FUSCO_S_STAGE_ROW, isHier ? spec.ranks : 0);
  checkCount(FUSCO_S_STAGE_ROWS, isHier ? spec.ranks : 0);
  checkCount(FUSCO_S_TILE_ORDER, spec.tileTokens > 0 ? entries : 0);
  for (const int section : {FUSCO_S_SLICE, FUSCO_S_FORWARD_SLICE}) {
    const uint32_t words = shard.count(section);
    const bool isThere = isHier || section == FUSCO_S_SLICE;
    checkCount(section, isThere ? words - words % FUSCO_SLICE_WORDS : 0);
  }
}

void checkReceive(const Plan &plan, uint32_t rank) {
  const Spec &spec = plan.spec;
  const ShardView &shard = plan.shards[rank];
  const auto expertOffset = shard.section(FUSCO_S_EXPERT_OFFSET);
  const auto expertRows = shard.section(FUSCO_S_EXPERT_ROWS);
  const auto runRow = shard.section(FUSCO_S_RUN_ROW);
  const auto runRows = shard.section(FUSCO_S_RUN_ROWS);
  const auto bad = [&](const std::string &path, auto... text) {
    return defect(FUSCO_E_RUN_TABLE, rank, path, text...);
  };
  const uint32_t local = shard.word(FUSCO_W_LOCAL_INSTANCES);
  // Sums of run lengths, which may be anything, stay far below 2^64.
  uint64_t block = 0;
  for (uint32_t j = 0; j < local; j++) {
    if (expertOffset[j] != block) {
      throw bad(place("experts", j), "the block starts at row %u, not at %llu", expertOffset[j], block);
    }
    uint64_t row = block;
    for (uint32_t source = 0; source < spec.ranks; source++) {
      const uint64_t run = uint64_t{j} * spec.ranks + source;
      if (runRow[run] != row) {
        throw bad(place("runs", j) + "/" + std::to_string(source), "the run starts at row %u, not at %llu",
                  runRow[run], row);
      }
      row += runRows[run];
    }
    if (row - block != expertRows[j]) {
      throw bad(place("experts", j), "the runs hold %llu rows, the block %u", row - block, expertRows[j]);
    }
    if (spec.capacity > 0 && row - block > spec.capacity) {
      throw bad(place("experts", j), "%llu rows > capacity %u", row - block, spec.capacity)
          .limited(row - block, spec.capacity);
    }
    block = (row + spec.align - 1) / spec.align * spec.align;
  }
  if (expertOffset[local] != block || shard.word(FUSCO_W_RECV_ROWS) != block) {
    throw bad("/experts", "the blocks end at row %llu, the buffer at %u", block,
              shard.word(FUSCO_W_RECV_ROWS));
  }
  if (block > FUSCO_MAX_ROWS) {
    throw defect(FUSCO_E_LIMIT, rank, "/experts", "%llu rows > %d", block, FUSCO_MAX_ROWS)
        .limited(block, FUSCO_MAX_ROWS);
  }
}

void checkSend(const Plan &plan, uint32_t rank) {
  const Spec &spec = plan.spec;
  const ShardView &shard = plan.shards[rank];
  const auto sendRow = shard.section(FUSCO_S_SEND_ROW);
  const auto sendRows = shard.section(FUSCO_S_SEND_ROWS);
  uint64_t total = 0;
  for (uint32_t i = 0; i < spec.placement.instances; i++) {
    const uint32_t peer = spec.placement.instanceRank[i];
    const ShardView &receiver = plan.shards[peer];
    const uint64_t run = uint64_t{i - spec.placement.rankFirst[peer]} * spec.ranks + rank;
    const uint32_t row = receiver.section(FUSCO_S_RUN_ROW)[run];
    const uint32_t rows = receiver.section(FUSCO_S_RUN_ROWS)[run];
    total += sendRows[i];
    if (sendRow[i] == row && sendRows[i] == rows) continue;
    throw defect(FUSCO_E_RUN_TABLE, rank, place("sendRuns", i), "sends rows %u+%u, rank %u expects %u+%u",
                 sendRow[i], sendRows[i], peer, row, rows);
  }
  const uint32_t kept = shard.word(FUSCO_W_KEPT);
  if (total == kept) return;
  throw defect(FUSCO_E_SHARD_HEAD, rank, "/head", "the runs hold %llu rows, not %u", total, kept)
      .limited(total, kept);
}

}  // namespace fusco::plan_file
