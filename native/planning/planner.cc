#include "planner.hpp"

#include <algorithm>
#include <numeric>
#include <optional>
#include <string>

#include "candidates.hpp"
#include "entry_passes.hpp"
#include "ids.hpp"
#include "landing_passes.hpp"
#include "quota_work.hpp"
#include "run_passes.hpp"
#include "shard_frame.hpp"

namespace fusco::planning {

namespace {

void checkRank(const Spec &spec, uint32_t rank) {
  if (rank < spec.ranks) return;
  throw Failure(FUSCO_E_OPTION, "rank %u of a group of %u", rank, spec.ranks).limited(rank, spec.ranks - 1);
}

// The targets of a rank's entries, and how many there are of each.
class RoutedEntries {
 public:
  // `target` [tokens, topk], or null to only count. Throws E_ROUTING_* for the first bad id.
  RoutedEntries(const Spec &spec, uint32_t rank, const fusco_ids &ids, uint16_t *target)
      : counts(spec.targets() + 1) {
    checkIds(ids, rank, spec.topk);
    const CandidateLists lists = targetsOf(spec, rank);
    const Routing routing{
        spec.experts,
        spec.topk,
        static_cast<uint16_t>(spec.targets()),
        {lists.isSingle() ? nullptr : lists.first.data(), lists.count.data(), lists.instances.data()}};
    withIds(ids.dtype, ids.data, [&](const auto *data) {
      uint32_t entry = 0;
      for (uint32_t token = 0; token < ids.tokens; token++, data += spec.topk) {
        for (uint32_t k = 0; k < spec.topk; k++, entry++) {
          const Routed routed = routeEntry(routing, data, token, k);
          if (routed.bad != BadId::none) {
            throw badId(routed.bad, rank, entry, spec.topk, spec.experts, std::to_string(data[k]).c_str());
          }
          if (target != nullptr) target[entry] = routed.target;
          counts[routed.target]++;
        }
      }
    });
  }

  uint32_t masked() const { return counts.back(); }

  std::vector<uint32_t> counts;  // [targets + 1], the last one of masked entries
};

// Tables of all blocks, and the runs of one source rank.
class RankRuns {
 public:
  // Throws E_LIMIT, E_MAX_ROWS.
  RankRuns(const Spec &spec, const Facts &facts, uint32_t rank, const DirectRange &direct)
      : totals_(spec.placement.instances),
        blockRow_(totals_.size()),
        row(totals_.size()),
        rows(totals_.size()),
        position(totals_.size()),
        group{spec.ranks,
              spec.placement.instances,
              spec.capacity,
              spec.align,
              spec.placement.rankFirst.data(),
              facts.counts,
              facts.stride,
              totals_.data(),
              blockRow_.data()} {
    std::vector<uint32_t> before(totals_.size());
    sumCounts(group, rank, 0, group.instances, before.data());
    if (std::find(totals_.begin(), totals_.end(), tooManyRows) != totals_.end()) {
      throw Failure(FUSCO_E_LIMIT, "more than %d rows for one expert", FUSCO_MAX_ROWS);
    }
    uint64_t most = 0;
    uint32_t busiest = 0;
    for (uint32_t peer = 0; peer < spec.ranks; peer++) {
      const uint64_t received = layBlocks(group, peer);
      if (received > most) {
        most = received;
        busiest = peer;
      }
      if (received > FUSCO_MAX_ROWS) {
        throw Failure(FUSCO_E_LIMIT, "rank %u receives more than %d rows", peer, FUSCO_MAX_ROWS)
            .atRank(peer)
            .limited(received, FUSCO_MAX_ROWS);
      }
      if (peer == rank) recvRows = static_cast<uint32_t>(received);
    }
    if (spec.maxRows > 0 && most > spec.maxRows) {
      throw Failure(FUSCO_E_MAX_ROWS, "rank %u would receive %llu rows, maxRows is %u", busiest, most,
                    spec.maxRows)
          .atRank(busiest)
          .limited(most, spec.maxRows);
    }
    uint32_t directRow = 0;
    for (uint32_t i = 0; i < group.instances; i++) {
      const RowRange run = runOf(group, rank, i, before[i]);
      row[i] = run.first;
      rows[i] = run.rows;
      position[i] = directRow;
      if (i >= direct.first && i < direct.end) directRow += run.rows;
    }
  }

 private:
  std::vector<uint32_t> totals_, blockRow_;

 public:
  std::vector<uint32_t> row, rows, position;  // [instances]
  GroupTables group;
  uint32_t recvRows = 0;
};

// Routes a rank's entries to instances, [tokens, topk]. Throws E_ROUTING_*, and E_FACTS where the facts do
// not say of the rank what its ids say. Returns the number of masked entries.
uint32_t routeEntries(const Spec &spec, const Facts &facts, uint32_t rank, const fusco_ids &ids,
                      uint16_t *instance) {
  const RoutedEntries routed(spec, rank, ids, instance);
  const uint32_t *claimed = facts.targets + rank * facts.targetStride;
  for (uint32_t i = 0; i < spec.targets(); i++) {
    if (claimed[i] == routed.counts[i]) continue;
    throw Failure(FUSCO_E_FACTS, "rank %u routes %u rows to %s %u, the facts say %u", rank, routed.counts[i],
                  spec.hasQuotas() ? "expert" : "instance", i, claimed[i])
        .atRank(rank)
        .limited(routed.counts[i], claimed[i]);
  }
  if (!spec.hasQuotas()) return routed.masked();
  const Placement &placement = spec.placement;
  const uint32_t *quotas = facts.counts + rank * facts.stride;
  const auto entries = static_cast<uint32_t>(ids.tokens * spec.topk);
  std::vector<uint32_t> next(spec.experts);
  for (uint32_t entry = 0; entry < entries; entry++) {
    const uint32_t expert = instance[entry];
    if (expert == spec.experts) {
      instance[entry] = static_cast<uint16_t>(placement.instances);
    } else {
      const uint16_t *hosts = placement.hosts.data() + placement.map.offsets[expert];
      instance[entry] = instanceByQuota(quotas, hosts, next[expert]++).instance;
    }
  }
  return routed.masked();
}

// A rank's view of the landing rows; hierarchical plans only.
struct Landing {
  std::vector<uint32_t> forwarder, landingRow, firstRow;  // [nodes]
  std::vector<uint32_t> sourceRow, sourceRows;            // [ranks]
  const uint32_t *rows;                                   // [nodes], S_FORWARD_ROWS
  uint32_t localRows;                                     // of the rank's own landing buffer

  // Throws E_LIMIT.
  Landing(const Spec &spec, const Facts &facts, const std::vector<uint16_t> &groups, uint32_t rank)
      : forwarder(spec.nodes),
        landingRow(spec.nodes),
        firstRow(spec.nodes),
        sourceRow(spec.ranks),
        sourceRows(spec.ranks),
        rows(facts.nodeRows + rank * facts.nodeStride) {
    BalanceInput input{};
    input.ranks = spec.ranks;
    input.ranksPerNode = spec.ranksPerNode;
    input.nodeRows = facts.nodeRows;
    input.stride = facts.nodeStride;
    const uint64_t staged = layLanding(
        input, groups.data(), rank,
        {forwarder.data(), landingRow.data(), firstRow.data(), sourceRow.data(), sourceRows.data()});
    if (staged > FUSCO_MAX_ROWS) {
      throw Failure(FUSCO_E_LIMIT, "rank %u forwards more than %d rows", rank, FUSCO_MAX_ROWS)
          .atRank(rank)
          .limited(staged, FUSCO_MAX_ROWS);
    }
    localRows = static_cast<uint32_t>(staged);
  }
};

// Fills the slots, and the send order of direct rows.
void placeEntries(const EntryTables &tables, uint32_t entries) {
  std::vector<uint32_t> next(tables.masked);
  for (uint32_t entry = 0; entry < entries; entry++) {
    const uint32_t instance = instanceKey(tables, entry);
    if (instance == noKey) {
      markMasked(tables, entry);
    } else {
      placeEntry(tables, entry, entryRun(tables, instance), next[instance]++);
    }
  }
}

// A rank's entries with their instances and slots.
struct SlottedEntries {
  const Spec *spec;
  uint32_t rank;
  const uint16_t *instance;  // [tokens, topk]
  const int32_t *slot;       // [tokens, topk]

  Place placeOf(uint32_t entry) const {
    if (slot[entry] < 0) return {0, slot[entry]};
    return {spec->placement.instanceRank[instance[entry]], slot[entry]};
  }
  uint16_t forwardNodeOf(uint32_t entry) const {
    if (slot[entry] < 0) return noNode;
    return forwardNode(slot[entry], spec->placement.instanceNode[instance[entry]], spec->nodeOf(rank));
  }
};

// Calls `use(token, k, node, leads)` with each entry whose row is forwarded, in order.
template <class Use>
void forEachForwarded(const SlottedEntries &entries, uint32_t tokens, Use use) {
  const uint32_t topk = entries.spec->topk;
  std::vector<uint16_t> nodes(topk);
  for (uint32_t token = 0; token < tokens; token++) {
    for (uint32_t k = 0; k < topk; k++) {
      nodes[k] = entries.forwardNodeOf(token * topk + k);
      if (nodes[k] != noNode) use(token, k, nodes[k], leadsRow(nodes.data(), k));
    }
  }
}

// Rows that the rank sends to each node: one for each token with a kept entry there. [nodes]
std::vector<uint32_t> countNodeRows(const SlottedEntries &entries, uint32_t tokens) {
  std::vector<uint32_t> rows(entries.spec->nodes);
  forEachForwarded(entries, tokens,
                   [&](uint32_t, uint32_t, uint32_t node, bool leads) { rows[node] += leads; });
  return rows;
}

std::vector<uint32_t> exclusiveSums(const std::vector<uint32_t> &values) {
  std::vector<uint32_t> sums(values.size());
  std::exclusive_scan(values.begin(), values.end(), sums.begin(), 0u);
  return sums;
}

// Writes the shard of one rank.
class ShardWriter {
 public:
  ShardWriter(const Spec &spec, const Facts &facts, const Decision &decision, uint32_t rank,
              const fusco_ids &ids)
      : spec_(spec),
        facts_(facts),
        rank_(rank),
        ids_(ids),
        direct_(directRange(spec, decision.isFlat(), rank)),
        runs_(spec, facts, rank, direct_),
        frame_(spec, rank, ids.tokens, runs_.rows.data(),
               decision.isFlat() ? nullptr : facts.nodeRows + rank * facts.nodeStride) {
    if (!decision.isFlat()) landing_.emplace(spec, facts, decision.groups, rank);
  }

  uint64_t bytes() const { return frame_.bytes(); }

  // `shard` has bytes() bytes and is aligned to words. Throws E_ROUTING_*, E_FACTS.
  void write(uint8_t *shard) {
    shard_ = shard;
    frame_.clearGaps(shard);
    const uint32_t masked = routeEntries(spec_, facts_, rank_, ids_, at<uint16_t>(FUSCO_S_ENTRY_INSTANCE));
    copyTo(FUSCO_S_SEND_ROW, runs_.row);
    copyTo(FUSCO_S_SEND_ROWS, runs_.rows);
    writeReceive();
    placeEntries({spec_.placement.instances, direct_.first, direct_.end, runs_.row.data(), runs_.rows.data(),
                  runs_.position.data(), at<uint16_t>(FUSCO_S_ENTRY_INSTANCE),
                  at<int32_t>(FUSCO_S_ENTRY_SLOT), at<uint32_t>(FUSCO_S_SEND_ENTRY)},
                 static_cast<uint32_t>(frame_.entries()));
    const uint32_t staged = landing_ ? writeForward(*landing_) : 0;
    frame_.writeSlices(shard);
    frame_.orderTiles(shard);
    frame_.writeHead(shard, {runs_.recvRows, masked, landing_ ? landing_->localRows : 0, staged});
  }

 private:
  template <class T>
  T *at(int section) const {
    return frame_.at<T>(shard_, section);
  }
  void copyTo(int section, const std::vector<uint32_t> &values) const {
    std::copy(values.begin(), values.end(), at<uint32_t>(section));
  }

  void writeReceive() const {
    auto *offset = at<uint32_t>(FUSCO_S_EXPERT_OFFSET);
    auto *rows = at<uint32_t>(FUSCO_S_EXPERT_ROWS);
    auto *runRow = at<uint32_t>(FUSCO_S_RUN_ROW);
    auto *runRows = at<uint32_t>(FUSCO_S_RUN_ROWS);
    const GroupTables &group = runs_.group;
    const uint32_t local = frame_.localInstances();
    for (uint32_t j = 0; j < local; j++) {
      const uint32_t instance = frame_.firstInstance() + j;
      offset[j] = group.blockRow[instance];
      rows[j] = keptRows(0, group.totals[instance], group.capacity);
      layRuns(group, instance, runRow + uint64_t{j} * spec_.ranks, runRows + uint64_t{j} * spec_.ranks);
    }
    offset[local] = runs_.recvRows;
  }

  // Returns how many rows need a landing row.
  uint32_t writeForward(const Landing &landing) const {
    copyTo(FUSCO_S_FORWARD_ROW, landing.landingRow);
    std::copy(landing.rows, landing.rows + spec_.nodes, at<uint32_t>(FUSCO_S_FORWARD_ROWS));
    copyTo(FUSCO_S_STAGE_ROW, landing.sourceRow);
    copyTo(FUSCO_S_STAGE_ROWS, landing.sourceRows);

    const std::vector<uint32_t> firstEntry = exclusiveSums(nodeEntries());
    const ForwardLists lists{spec_.topk,
                             landing.forwarder.data(),
                             landing.landingRow.data(),
                             landing.firstRow.data(),
                             firstEntry.data(),
                             at<uint32_t>(FUSCO_S_FORWARD_TOKEN),
                             at<int32_t>(FUSCO_S_FORWARD_TARGET),
                             at<uint32_t>(FUSCO_S_DISTRIBUTE_OFFSET),
                             at<uint32_t>(FUSCO_S_DISTRIBUTE_ENTRY)};
    lists.offset[frame_.forwardedRows()] = static_cast<uint32_t>(frame_.kept() - frame_.directRows());
    std::vector<uint32_t> rows(spec_.nodes), positions(spec_.nodes);
    uint32_t staged = 0;
    const SlottedEntries entries{&spec_, rank_, at<uint16_t>(FUSCO_S_ENTRY_INSTANCE),
                                 at<int32_t>(FUSCO_S_ENTRY_SLOT)};
    forEachForwarded(entries, ids_.tokens, [&](uint32_t token, uint32_t k, uint32_t node, bool leads) {
      const uint32_t first = token * spec_.topk;
      const uint32_t position = positions[node]++;
      distributeEntry(lists, first + k, node, position);
      // More rows than the facts say have no place; they are refused below.
      if (!leads || rows[node]++ >= landing.rows[node]) return;
      const auto placeOf = [&](uint32_t other) { return entries.placeOf(first + other); };
      staged += forwardRow(lists, placeOf, token, k, node, rows[node] - 1, position);
    });
    checkNodeRows(landing, rows);
    return staged;
  }

  void checkNodeRows(const Landing &landing, const std::vector<uint32_t> &found) const {
    for (uint32_t node = 0; node < spec_.nodes; node++) {
      if (found[node] == landing.rows[node]) continue;
      throw Failure(FUSCO_E_FACTS, "rank %u sends %u rows to node %u, the facts say %u", rank_, found[node],
                    node, landing.rows[node])
          .atRank(rank_)
          .limited(found[node], landing.rows[node]);
    }
  }

  // Kept entries for each other node. [nodes]
  std::vector<uint32_t> nodeEntries() const {
    std::vector<uint32_t> entries(spec_.nodes);
    for (uint32_t i = 0; i < spec_.placement.instances; i++) {
      entries[spec_.placement.instanceNode[i]] += runs_.rows[i];
    }
    entries[spec_.nodeOf(rank_)] = 0;
    return entries;
  }

  const Spec &spec_;
  const Facts &facts_;
  uint32_t rank_;
  const fusco_ids &ids_;
  DirectRange direct_;
  RankRuns runs_;
  ShardFrame frame_;
  std::optional<Landing> landing_;  // of a hierarchical plan
  uint8_t *shard_ = nullptr;
};

}  // namespace

Planner::Planner(const fusco_plan_options &options)
    : spec_(makeSpec(options)),
      candidates_(candidatesOf(spec_)),
      ranksPerHost_(ranksPerHostOf(options, spec_)) {}

uint32_t Planner::firstCounts() const {
  return spec_.targets() + (spec_.countsTwice() ? 0 : spec_.rowCounts());
}

uint32_t Planner::secondCounts() const { return spec_.countsTwice() ? spec_.rowCounts() : 0; }

Facts Planner::factsOf(const uint32_t *counts, const uint32_t *second) const {
  Facts facts{counts, firstCounts(), counts, firstCounts(), nullptr, 0, {}, nullptr};
  if (spec_.hasQuotas()) {
    facts.quotas = quotasOf(spec_, counts, firstCounts());
    facts.counts = facts.quotas.data();
    facts.stride = spec_.placement.instances;
  }
  if (spec_.isFlat()) return facts;
  facts.nodeRows = spec_.countsTwice() ? second : counts + spec_.targets();
  facts.nodeStride = spec_.countsTwice() ? secondCounts() : firstCounts();
  if (facts.nodeRows != nullptr && spec_.considersOncePerRank())
    facts.rankRows = facts.nodeRows + spec_.nodes;
  return facts;
}

void Planner::count(uint32_t rank, const fusco_ids &ids, uint32_t *counts) const {
  checkRank(spec_, rank);
  checkIds(ids, rank, spec_.topk);
  const bool isAll = firstCounts() == spec_.targets();
  std::vector<uint16_t> instance(isAll ? 0 : uint64_t{ids.tokens} * spec_.topk);
  const RoutedEntries routed(spec_, rank, ids, isAll ? nullptr : instance.data());
  std::copy(routed.counts.begin(), routed.counts.end() - 1, counts);
  if (isAll) return;
  // Without a capacity every entry with an expert is kept, in whatever slot.
  std::vector<int32_t> slot(instance.size());
  const uint32_t masked = spec_.placement.instances;
  std::transform(instance.begin(), instance.end(), slot.begin(),
                 [=](uint32_t of) { return of == masked ? FUSCO_SLOT_MASKED : 0; });
  countRows(rank, ids, instance.data(), slot.data(), counts + spec_.targets());
}

void Planner::countRows(uint32_t rank, const fusco_ids &ids, const uint16_t *instance, const int32_t *slot,
                        uint32_t *rows) const {
  const auto append = [&](const Spec &nodes) {
    const std::vector<uint32_t> found = countNodeRows({&nodes, rank, instance, slot}, ids.tokens);
    rows = std::copy(found.begin(), found.end(), rows);
  };
  append(spec_);
  for (const Spec &candidate : candidates_) {
    if (candidate.nodes != spec_.nodes) append(candidate);
  }
}

void Planner::countAgain(uint32_t rank, const fusco_ids &ids, const uint32_t *counts,
                         uint32_t *second) const {
  checkRank(spec_, rank);
  checkIds(ids, rank, spec_.topk);
  if (secondCounts() == 0) return;
  std::vector<uint16_t> instance(uint64_t{ids.tokens} * spec_.topk);
  std::vector<int32_t> slot(instance.size());
  const Facts facts = factsOf(counts, nullptr);
  routeEntries(spec_, facts, rank, ids, instance.data());
  const RankRuns runs(spec_, facts, rank, {});
  placeEntries({spec_.placement.instances, 0, 0, runs.row.data(), runs.rows.data(), runs.position.data(),
                instance.data(), slot.data(), nullptr},
               static_cast<uint32_t>(slot.size()));
  countRows(rank, ids, instance.data(), slot.data(), second);
}

Planner::Settled Planner::settle(const uint32_t *counts, const uint32_t *second) const {
  Settled settled{&spec_, factsOf(counts, second), {}};
  if (candidates_.empty()) {
    settled.decision = decide(spec_, settled.facts);
    return settled;
  }
  Choice choice = chooseLeastBusy(spec_, ranksPerHost_, candidates_, settled.facts);
  settled.spec = choice.spec;
  settled.decision = std::move(choice.decision);
  settled.facts.nodeRows = rowsPerNode(*settled.spec, settled.facts);
  return settled;
}

uint64_t Planner::shard(uint32_t rank, const fusco_ids &ids, const uint32_t *counts, const uint32_t *second,
                        const fusco_buffer &shard) const {
  checkRank(spec_, rank);
  checkIds(ids, rank, spec_.topk);
  const Settled settled = settle(counts, second);
  ShardWriter writer(*settled.spec, settled.facts, settled.decision, rank, ids);
  if (shard.data == nullptr) return writer.bytes();
  checkShardBuffer(shard, rank, writer.bytes());
  writer.write(static_cast<uint8_t *>(shard.data));
  return writer.bytes();
}

void Planner::planAll(const std::vector<fusco_ids> &ids,
                      const std::function<void(uint32_t rank, const fusco_buffer &shard)> &use) const {
  std::vector<uint32_t> counts(uint64_t{spec_.ranks} * firstCounts());
  std::vector<uint32_t> second(uint64_t{spec_.ranks} * secondCounts());
  for (uint32_t rank = 0; rank < spec_.ranks; rank++) {
    count(rank, ids[rank], counts.data() + uint64_t{rank} * firstCounts());
  }
  for (uint32_t rank = 0; rank < spec_.ranks && !second.empty(); rank++) {
    countAgain(rank, ids[rank], counts.data(), second.data() + uint64_t{rank} * secondCounts());
  }
  std::vector<uint64_t> words;
  for (uint32_t rank = 0; rank < spec_.ranks; rank++) {
    fusco_buffer made{};
    made.bytes = shard(rank, ids[rank], counts.data(), second.data(), made);
    words.resize(made.bytes / sizeof(uint64_t));
    made.data = words.data();
    shard(rank, ids[rank], counts.data(), second.data(), made);
    use(rank, made);
  }
}

}  // namespace fusco::planning
