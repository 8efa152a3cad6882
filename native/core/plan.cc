// Upload: from the shards' bytes to checked tables. A plan that gets through cannot make an exchange touch a
// row outside of a buffer, write a row twice or leave one unwritten.

#include "plan.hpp"

#include <algorithm>
#include <cstring>

#include "failure.hpp"
#include "shard.hpp"

namespace fusco {

namespace {

// Small enough to balance 512 tokens a rank over many threads, large enough that taking a task costs nothing.
constexpr uint32_t taskTokens = 32;

// The real rows of one expert instance at its rank.
struct Block {
  uint32_t peer;
  uint32_t begin;
  uint32_t end;
  uint64_t firstRow;  // number of its first real row among all real rows of the plan
};

void checkGroup(const fusco_plan_desc &desc) {
  if (desc.shards == nullptr || desc.ranks < 1 || desc.ranks > FUSCO_MAX_RANKS) {
    throw Failure(FUSCO_E_RANKS, "a plan of %u ranks; there must be shards of 1 to %d", desc.ranks,
                  FUSCO_MAX_RANKS)
        .limited(desc.ranks, FUSCO_MAX_RANKS);
  }
  if (desc.ranks_per_node < 1 || desc.ranks % desc.ranks_per_node != 0) {
    throw Failure(FUSCO_E_RANKS, "%u ranks a node do not divide %u ranks", desc.ranks_per_node, desc.ranks)
        .limited(desc.ranks_per_node, desc.ranks);
  }
  const int strategy = static_cast<int>(desc.strategy);
  const int partial = static_cast<int>(desc.partial);
  const bool flat = strategy == FUSCO_STRATEGY_FLAT;
  if (!flat && strategy != FUSCO_STRATEGY_HIER) {
    throw Failure(FUSCO_E_BACKEND, "there is no strategy %d", strategy);
  }
  if (!flat && partial != FUSCO_PARTIAL_PAYLOAD && partial != FUSCO_PARTIAL_F32) {
    throw Failure(FUSCO_E_OPTION, "there are no partial sums of kind %d", partial);
  }
}

class Upload {
 public:
  Upload(fusco_plan &plan, const fusco_plan_desc &desc) : plan_(plan) {
    readers_.reserve(desc.ranks);
    for (uint32_t rank = 0; rank < desc.ranks; rank++) {
      readers_.emplace_back(desc.shards[rank], rank, desc.ranks);
      checkAgainstFirst(rank);
    }
  }

  void run() {
    for (uint32_t rank = 0; rank < readers_.size(); rank++) readBlocks(rank);
    if (blocks_.size() != readers_[0].word(FUSCO_W_INSTANCES)) {
      throw Failure(FUSCO_E_SHARD_HEAD, "the ranks host %zu instances, their shards say %u", blocks_.size(),
                    readers_[0].word(FUSCO_W_INSTANCES));
    }
    plan_.topk = readers_[0].word(FUSCO_W_TOPK);
    uint64_t kept = 0;
    for (const ShardReader &reader : readers_) {
      kept += reader.word(FUSCO_W_KEPT);
      entries_ += reader.entries();
    }
    if (kept != realRows_) {
      throw Failure(FUSCO_E_ENTRY, "%llu rows are sent, the blocks hold %llu",
                    static_cast<unsigned long long>(kept), static_cast<unsigned long long>(realRows_))
          .limited(kept, realRows_);
    }
    // Entries are backed by bytes of the shards, so that this bounds the bitmap as well.
    if (kept > entries_) {
      throw Failure(FUSCO_E_SHARD_HEAD, "the heads keep %llu of %llu entries",
                    static_cast<unsigned long long>(kept), static_cast<unsigned long long>(entries_));
    }
    // As many rows as entries, none written twice and all inside the blocks: then none is left unwritten
    // either.
    written_.assign((realRows_ + 63) / 64, 0);
    for (uint32_t rank = 0; rank < readers_.size(); rank++) readEntries(rank);
  }

 private:
  void checkAgainstFirst(uint32_t rank) const {
    const ShardReader &first = readers_[0];
    const ShardReader &reader = readers_[rank];
    if (reader.word(FUSCO_W_TOPK) != first.word(FUSCO_W_TOPK) ||
        reader.word(FUSCO_W_INSTANCES) != first.word(FUSCO_W_INSTANCES)) {
      throw Failure(FUSCO_E_SHARD_HEAD, "rank %u: topk %u and %u instances, rank 0 has %u and %u", rank,
                    reader.word(FUSCO_W_TOPK), reader.word(FUSCO_W_INSTANCES), first.word(FUSCO_W_TOPK),
                    first.word(FUSCO_W_INSTANCES))
          .atRank(rank);
    }
    if (reader.word(FUSCO_W_INSTANCES) > FUSCO_MAX_INSTANCES) {
      throw Failure(FUSCO_E_LIMIT, "%u instances > %d", reader.word(FUSCO_W_INSTANCES), FUSCO_MAX_INSTANCES)
          .limited(reader.word(FUSCO_W_INSTANCES), FUSCO_MAX_INSTANCES);
    }
    if (plan_.tree == Tree::none &&
        (reader.word(FUSCO_W_STAGE_ROWS) != 0 || reader.word(FUSCO_W_STAGED) != 0)) {
      throw Failure(FUSCO_E_SHARD_HEAD, "rank %u stages rows in a flat plan", rank).atRank(rank);
    }
  }

  void readBlocks(uint32_t rank) {
    const ShardReader &reader = readers_[rank];
    const auto offsets = reader.section<uint32_t>(FUSCO_S_EXPERT_OFFSET);
    const auto rows = reader.section<uint32_t>(FUSCO_S_EXPERT_ROWS);
    RankPlan &part = plan_.rank[rank];
    part.tokens = reader.word(FUSCO_W_TOKENS);
    part.recvRows = reader.word(FUSCO_W_RECV_ROWS);
    if (reader.word(FUSCO_W_FIRST_INSTANCE) != blocks_.size() || offsets.front() != 0 ||
        offsets.back() != part.recvRows) {
      throw Failure(FUSCO_E_SHARD_HEAD, "rank %u: first instance %u, blocks of rows %u to %u of %u", rank,
                    reader.word(FUSCO_W_FIRST_INSTANCE), offsets.front(), offsets.back(), part.recvRows)
          .atRank(rank)
          .at("/ranks/%u", rank);
    }
    for (size_t local = 0; local < rows.size(); local++) {
      const uint32_t begin = offsets[local];
      const uint32_t end = offsets[local + 1];
      if (begin > end || end > part.recvRows || rows[local] > end - begin) {
        throw Failure(FUSCO_E_SEGMENT_BOUNDS, "rank %u block %zu: %u rows in %u to %u of %u", rank, local,
                      rows[local], begin, end, part.recvRows)
            .atRank(rank)
            .limited(rows[local], end >= begin ? end - begin : 0)
            .at("/ranks/%u/blocks/%zu", rank, local);
      }
      const uint32_t real = rows[local];
      blocks_.push_back({rank, begin, begin + real, realRows_});
      realRows_ += real;
      if (real < end - begin) part.padding.push_back({begin + real, end - begin - real});
    }
  }

  void readEntries(uint32_t rank) {
    const ShardReader &reader = readers_[rank];
    const auto slots = reader.section<int32_t>(FUSCO_S_ENTRY_SLOT);
    const auto instances = reader.section<uint16_t>(FUSCO_S_ENTRY_INSTANCE);
    RankPlan &part = plan_.rank[rank];
    part.targets.resize(slots.size());
    uint32_t counts[3] = {0, 0, 0};  // kept, masked, dropped
    for (size_t entry = 0; entry < slots.size(); entry++) {
      const int32_t slot = slots[entry];
      const uint32_t instance = instances[entry];
      if (slot >= 0) {
        part.targets[entry] = {blockOf(rank, entry, instance, slot).peer, slot};
        counts[0]++;
        continue;
      }
      const bool masked = slot == FUSCO_SLOT_MASKED;
      if (masked ? instance != blocks_.size() : (slot != FUSCO_SLOT_DROPPED || instance >= blocks_.size())) {
        throw badEntry(FUSCO_E_ENTRY, "is not a slot, masked or dropped", rank, entry, instance, slot);
      }
      part.targets[entry] = {0, slot};
      counts[masked ? 1 : 2]++;
    }
    if (counts[0] != reader.word(FUSCO_W_KEPT) || counts[1] != reader.word(FUSCO_W_MASKED) ||
        counts[2] != reader.word(FUSCO_W_DROPPED)) {
      throw Failure(FUSCO_E_SHARD_HEAD, "rank %u keeps %u, masks %u, drops %u; its head says otherwise", rank,
                    counts[0], counts[1], counts[2])
          .atRank(rank);
    }
    part.kept = counts[0];
  }

  const Block &blockOf(uint32_t rank, size_t entry, uint32_t instance, int32_t slot) {
    if (instance >= blocks_.size()) {
      throw badEntry(FUSCO_E_SEGMENT_BOUNDS, "names no instance", rank, entry, instance, slot);
    }
    const Block &block = blocks_[instance];
    const auto row = static_cast<uint32_t>(slot);
    if (row < block.begin || row >= block.end) {
      throw badEntry(FUSCO_E_SEGMENT_BOUNDS, "leaves its block", rank, entry, instance, slot)
          .limited(row, block.end);
    }
    const uint64_t number = block.firstRow + (row - block.begin);
    uint64_t &word = written_[number / 64];
    const uint64_t bit = uint64_t{1} << (number % 64);
    if ((word & bit) != 0) {
      throw badEntry(FUSCO_E_ENTRY, "writes a row that another entry writes", rank, entry, instance, slot);
    }
    word |= bit;
    return block;
  }

  static Failure badEntry(fusco_status status, const char *what, uint32_t rank, size_t entry,
                          uint32_t instance, int32_t slot) {
    return Failure(status, "entry %zu of rank %u, instance %u slot %d, %s", entry, rank, instance, slot, what)
        .atRank(rank)
        .at("/ranks/%u/entries/%zu", rank, entry);
  }

  fusco_plan &plan_;
  std::vector<ShardReader> readers_;
  std::vector<Block> blocks_;
  uint64_t realRows_ = 0;
  uint64_t entries_ = 0;
  std::vector<uint64_t> written_;
};

}  // namespace

std::unique_ptr<fusco_plan> makePlan(std::shared_ptr<Context> context, const fusco_plan_desc &desc) {
  checkGroup(desc);
  auto plan = std::make_unique<fusco_plan>();
  plan->context = std::move(context);
  plan->ranks = desc.ranks;
  plan->ranksPerNode = desc.ranks_per_node;
  if (desc.strategy == FUSCO_STRATEGY_HIER) {
    plan->tree = desc.partial == FUSCO_PARTIAL_F32 ? Tree::kept : Tree::rounded;
  }
  plan->rank.resize(desc.ranks);
  Upload upload(*plan, desc);
  upload.run();
  for (uint32_t rank = 0; rank < desc.ranks; rank++) {
    const RankPlan &part = plan->rank[rank];
    plan->kept += part.kept;
    plan->tokens += part.tokens;
    for (uint64_t begin = 0; begin < part.tokens; begin += taskTokens) {
      const uint64_t end = std::min<uint64_t>(begin + taskTokens, part.tokens);
      plan->tasks.push_back({rank, static_cast<uint32_t>(begin), static_cast<uint32_t>(end)});
    }
  }
  return plan;
}

}  // namespace fusco
