// Upload: from the shards' bytes to checked tables. A plan that gets through cannot make an exchange touch a
// row outside of a buffer, write a row twice or leave one unwritten.

#include "plan.hpp"

#include <algorithm>

namespace fusco {

namespace {

// Small enough to balance 512 tokens a rank over many threads, large enough that taking a task costs nothing.
constexpr uint32_t taskTokens = 32;

// The real rows of one expert instance at its rank.
struct Block {
  uint32_t rank;
  RowRange rows;
  uint64_t firstRow;  // number of its first row among all real rows of the plan
};

void checkGroup(const fusco_plan_desc &desc) {
  if (desc.shards == nullptr || desc.ranks < 1 || desc.ranks > FUSCO_MAX_RANKS) {
    throw Failure(FUSCO_E_RANKS, "a plan of %u ranks; there must be shards of 1 to %d", desc.ranks,
                  FUSCO_MAX_RANKS)
        .limited(desc.ranks, FUSCO_MAX_RANKS);
  }
  checkRanksPerNode(desc.ranks_per_node, desc.ranks);
}

class Upload {
 public:
  Upload(fusco_plan &plan, const fusco_plan_desc &desc, std::vector<CheckedShard> &shards)
      : plan_(plan), shards_(shards) {
    shards.reserve(desc.ranks);
    for (uint32_t rank = 0; rank < desc.ranks; rank++) {
      shards.emplace_back(desc.shards[rank], rank, desc.ranks);
      checkAgainstFirst(rank);
    }
    plan.topk = shards[0].word(FUSCO_W_TOPK);
    plan.instances = shards[0].word(FUSCO_W_INSTANCES);
  }

  void run() {
    for (uint32_t rank = 0; rank < shards_.size(); rank++) readBlocks(rank);
    if (blocks_.size() != plan_.instances) {
      throw Failure(FUSCO_E_SHARD_HEAD, "the ranks host %llu instances, their shards say %u", blocks_.size(),
                    plan_.instances);
    }
    uint64_t kept = 0;
    uint64_t entries = 0;
    for (const CheckedShard &shard : shards_) {
      kept += shard.word(FUSCO_W_KEPT);
      entries += shard.entries();
    }
    if (kept != realRows_) {
      throw Failure(FUSCO_E_ENTRY, "%llu rows are sent, the blocks hold %llu", kept, realRows_)
          .limited(kept, realRows_);
    }
    // Entries are backed by bytes of the shards, so that this bounds the bitmap as well.
    if (kept > entries) {
      throw Failure(FUSCO_E_SHARD_HEAD, "the heads keep %llu of %llu entries", kept, entries);
    }
    // As many rows as entries, none written twice and all inside the blocks: then none is left unwritten
    // either.
    written_.assign((realRows_ + 63) / 64, 0);
    for (uint32_t rank = 0; rank < shards_.size(); rank++) {
      shards_[rank].readEntries(plan_.rank[rank],
                                [this, rank](size_t number, uint32_t instance, uint32_t slot) {
                                  return ownerOf(rank, number, instance, slot);
                                });
    }
  }

 private:
  void checkAgainstFirst(uint32_t rank) const {
    const CheckedShard &first = shards_[0];
    const CheckedShard &shard = shards_[rank];
    const uint32_t instances = shard.word(FUSCO_W_INSTANCES);
    if (shard.word(FUSCO_W_TOPK) != first.word(FUSCO_W_TOPK) || instances != first.word(FUSCO_W_INSTANCES)) {
      throw shard.refused(FUSCO_E_SHARD_HEAD, "rank %u: topk %u and %u instances, rank 0 has %u and %u", rank,
                          shard.word(FUSCO_W_TOPK), instances, first.word(FUSCO_W_TOPK),
                          first.word(FUSCO_W_INSTANCES));
    }
    if (instances > FUSCO_MAX_INSTANCES) {
      throw Failure(FUSCO_E_LIMIT, "%u instances > %d", instances, FUSCO_MAX_INSTANCES)
          .limited(instances, FUSCO_MAX_INSTANCES);
    }
    if (!plan_.isHierarchical && (shard.word(FUSCO_W_STAGE_ROWS) != 0 || shard.word(FUSCO_W_STAGED) != 0)) {
      throw shard.refused(FUSCO_E_SHARD_HEAD, "rank %u has landing rows in a flat plan", rank);
    }
  }

  void readBlocks(uint32_t rank) {
    for (const RowRange &rows : shards_[rank].readBlocks(blocks_.size(), plan_.rank[rank])) {
      blocks_.push_back({rank, rows, realRows_});
      realRows_ += rows.rows;
    }
  }

  // Proves that the entry's slot is a row of its instance's block, which no other entry of any rank writes.
  uint32_t ownerOf(uint32_t rank, size_t number, uint32_t instance, uint32_t slot) {
    const Block &block = blocks_[instance];
    const uint32_t row = slot - block.rows.first;  // large in front of the block
    if (row >= block.rows.rows) {
      throw badEntry(FUSCO_E_SEGMENT_BOUNDS, "leaves its block", {rank, number, instance, slot})
          .limited(slot, block.rows.first + block.rows.rows);
    }
    const uint64_t rowOfPlan = block.firstRow + row;
    uint64_t &word = written_[rowOfPlan / 64];
    const uint64_t bit = uint64_t{1} << (rowOfPlan % 64);
    if ((word & bit) != 0) {
      throw badEntry(FUSCO_E_ENTRY, "writes a row that another entry writes", {rank, number, instance, slot});
    }
    word |= bit;
    return block.rank;
  }

  fusco_plan &plan_;
  std::vector<CheckedShard> &shards_;
  std::vector<Block> blocks_;
  uint64_t realRows_ = 0;
  std::vector<uint64_t> written_;
};

}  // namespace

CheckedPlan checkPlan(std::shared_ptr<Context> context, const fusco_plan_desc &desc) {
  checkGroup(desc);
  CheckedPlan checked;
  checked.plan = std::make_unique<fusco_plan>();
  fusco_plan &plan = *checked.plan;
  plan.context = std::move(context);
  plan.ranks = desc.ranks;
  plan.ranksPerNode = desc.ranks_per_node;
  plan.tree = treeOf(desc.strategy, desc.partial, desc.sum);
  plan.isHierarchical = desc.strategy == FUSCO_STRATEGY_HIER;
  plan.rank.resize(desc.ranks);
  Upload(plan, desc, checked.shards).run();
  for (uint32_t rank = 0; rank < desc.ranks; rank++) {
    const RankPlan &part = plan.rank[rank];
    plan.kept += part.kept;
    plan.tokens += part.tokens;
    for (uint64_t begin = 0; begin < part.tokens; begin += taskTokens) {
      const uint64_t end = std::min<uint64_t>(begin + taskTokens, part.tokens);
      plan.tasks.push_back({rank, static_cast<uint32_t>(begin), static_cast<uint32_t>(end)});
    }
  }
  return checked;
}

}  // namespace fusco
