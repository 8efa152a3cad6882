// The passes that plan on a GPU, run by emulated blocks of threads, against the shards of native planning on
// the CPU and against the tables that plain loops make of these shards. Random routings; one process with one
// or several devices, and a process for each rank, on one machine or on several.

#include "block_emulator.hpp"

#include <barrier>
#include <thread>

#include "plan_device.cuh"
#include "small_plan_device.cuh"

#include "plan_buffers.hpp"
#include "plan_shard.hpp"
#include "plans.h"
#include "quota_work.hpp"

using namespace fusco;
using namespace fusco::cuda;

namespace fusco::cuda {

alignas(16) thread_local uint32_t sharedWords[256 * 1024 / sizeof(uint32_t)];

}  // namespace fusco::cuda

namespace {

constexpr uint32_t warpsOfBlock = tilesOfBlock;
constexpr uint32_t tableThreads = 64;

// Blocks of all ranks, each in a thread of the operating system, wait for one another.
class BlockEdge {
 public:
  explicit BlockEdge(std::barrier<> &barrier) : barrier_(barrier) {}
  void wait() const {
    __syncthreads();
    if (threadIdx.x == 0) barrier_.arrive_and_wait();
    __syncthreads();
  }

 private:
  std::barrier<> &barrier_;
};

// The tables of PlacedTables, in host memory.
struct Placed {
  planning::ReplicaGroups replicas;
  std::vector<uint32_t> first, count;
  std::vector<uint16_t> targets;
  PlanParams params{};

  Placed(const planning::Spec &spec, const PlanSizes &sizes, const std::vector<uint32_t> &ranks) {
    const planning::Placement &placement = spec.placement;
    if (spec.hasQuotas()) replicas = planning::groupReplicas(placement);
    params.sizes = sizes;
    layPlanBuffer(sizes, nullptr, params.offsets);
    params.placement = {placement.rankFirst.data(),    placement.instanceRank.data(),
                        placement.instanceNode.data(), placement.instanceExpert.data(),
                        placement.map.offsets.data(),  placement.hosts.data(),
                        replicas.first.data(),         replicas.groupOf.data()};
    bool isSingle = true;
    std::vector<planning::CandidateLists> lists;
    for (const uint32_t rank : ranks) {
      lists.push_back(planning::targetsOf(spec, rank));
      isSingle = isSingle && lists.back().isSingle();
      params.targetStride =
          std::max(params.targetStride, static_cast<uint32_t>(lists.back().instances.size()));
    }
    for (planning::CandidateLists &list : lists) {
      first.insert(first.end(), list.first.begin(), list.first.end());
      count.insert(count.end(), list.count.begin(), list.count.end());
      list.instances.resize(params.targetStride);
      targets.insert(targets.end(), list.instances.begin(), list.instances.end());
    }
    params.candidateFirst = isSingle ? nullptr : first.data();
    params.candidateCount = isSingle ? nullptr : count.data();
    params.targets = targets.data();
    for (const uint32_t rank : ranks) params.rankOf[params.localRanks++] = rank;
  }
};

// The devices of a routing, with the plan buffers of all ranks.
struct Devices {
  planning::Spec spec;
  PlanSizes sizes;
  std::vector<std::vector<uint64_t>> memory, inboxes;  // [ranks]
  std::vector<PlanBuffer> rank;
  std::vector<std::unique_ptr<Placed>> placed;
  uint32_t seed;
  bool areGathered = false;

  // `isProcess`: every rank is a process, with a device of its own.
  Devices(const RandomRouting &routed, const std::vector<uint32_t> &deviceOf, uint32_t limit, bool isProcess,
          uint32_t firstSeed)
      : spec(planning::makeSettledSpec(routed.options)),
        sizes(sizesOf(routed, limit)),
        rank(sizes.ranks),
        seed(firstSeed) {
    const FactBytes facts = factBytes(sizes);
    for (uint32_t r = 0; r < sizes.ranks; r++) {
      memory.emplace_back(planBufferBytes(sizes) / sizeof(uint64_t) + 1, poison);
      inboxes.emplace_back((facts.counts + facts.arrivals) / sizeof(uint64_t), poison);
      layPlanBuffer(sizes, bytesOf(memory[r]), rank[r]);
    }
    const uint32_t devices = *std::max_element(deviceOf.begin(), deviceOf.end()) + 1;
    for (uint32_t device = 0; device < devices; device++) {
      std::vector<uint32_t> ranks;
      for (uint32_t r = 0; r < sizes.ranks; r++) {
        if (deviceOf[r] == device) ranks.push_back(r);
      }
      PlanParams &params = placed.emplace_back(std::make_unique<Placed>(spec, sizes, ranks))->params;
      params.hasOthers = devices > 1 ? 1 : 0;
      for (uint32_t local = 0; local < params.localRanks; local++) {
        const uint32_t r = params.rankOf[local];
        params.ids[local] = {routed.ids[r].data(), routed.tokens[r], FUSCO_ID_I32};
      }
      for (uint32_t r = 0; r < sizes.ranks; r++) {
        if (!isProcess || deviceOf[r] == device) params.buffers[r] = bytesOf(memory[r]);
        for (uint32_t other = 0; other < sizes.ranks; other++) {
          if (deviceOf[r] == deviceOf[other]) params.deviceRanks[r].add(other);
        }
        uint8_t *inbox = bytesOf(inboxes[r]);
        if (isProcess) params.inbox[r] = {inbox, inbox + facts.counts};
      }
    }
  }

  // Makes every rank a machine: facts are gathered in the plan buffers between the parts of planning.
  void separate() {
    areGathered = true;
    for (const auto &device : placed) {
      PlanParams &params = device->params;
      tellOwnBuffer(params, params.buffers[params.rankOf[0]]);
    }
  }

  // What is behind the plan buffers stays as it was.
  void checkEnds() const {
    for (const std::vector<uint64_t> &words : memory) CHECK(words.back() == poison);
  }

  // A block for each pass, as if all kernels were waited for.
  void plan() {
    ofDevices([this](const PlanParams &params) {
      byWarps(params, sizes.tiles, [&](uint32_t local, uint32_t first) { routeBlock(params, local, first); });
      byWarps(params, sizes.targets,
              [&](uint32_t local, uint32_t first) { scanBlock(params, local, first); });
    });
    if (areGathered) {
      gather(&PlanBuffer::counts, sizes.targets);
      gather(&PlanBuffer::tokens, 1);
    }
    const bool isWhole = placed.size() == 1;
    ofDevices([this, isWhole](const PlanParams &params) {
      byBlocks(params.localRanks, tableThreads, [&](uint32_t local) { layBlock(params, local, shared()); });
      byWarps(params, sizes.tiles, [&](uint32_t local, uint32_t first) { placeBlock(params, local, first); });
      if (sizes.isFlat != 0) return;
      byBlocks(params.localRanks, tableThreads, [&](uint32_t local) {
        const uint32_t r = params.rankOf[local];
        scanNodes(sizes, bufferOf(params, r), GlobalPeers(params, r));
        if (isWhole && isLastToTell(params, shared())) layForwardBlock(params);
      });
    });
    if (areGathered && sizes.isFlat == 0) gather(&PlanBuffer::nodeRows, sizes.nodes);
    ofDevices([this, isWhole](const PlanParams &params) {
      if (params.inbox[params.rankOf[0]].counts != nullptr) {
        byBlocks(sizes.ranks * 2, tableThreads,
                 [&](uint32_t number) { takeBlock(params, number / 2, number % 2, 2); });
      }
      if (sizes.isFlat != 0) return;
      if (!isWhole) byBlocks(1, tableThreads, [&](uint32_t) { layForwardBlock(params); });
      byWarps(params, sizes.tiles,
              [&](uint32_t local, uint32_t first) { forwardBlock(params, local, first); });
    });
  }

  // A block for each rank of the only device, all at the same time: they tell one another facts in shared
  // memory.
  void planSmall() {
    std::barrier<> barrier(sizes.ranks);
    std::vector<uint8_t *> memoryOf(sizes.ranks);
    const BlockEdge edge(barrier);
    const PlanParams &params = placed.front()->params;
    std::vector<std::thread> blocks;
    for (uint32_t r = 0; r < sizes.ranks; r++) {
      blocks.emplace_back([&, r] {
        std::fill(std::begin(sharedWords), std::end(sharedWords), 0xa5a5a5a5);
        memoryOf[r] = reinterpret_cast<uint8_t *>(sharedWords);
        const auto map = [&memoryOf, r](auto *pointer, uint32_t to) {
          const uint64_t offset = reinterpret_cast<uint8_t *>(pointer) - memoryOf[r];
          return reinterpret_cast<decltype(pointer)>(memoryOf[to] + offset);
        };
        // Fewer and more warps than ranks.
        emulated::Block(seed % 2 == 0 ? tableThreads : 8 * warpSize_, seed + r, [&] {
          planSmallBlock(params, r, edge, SharedPeers(params, r, map), shared());
        }).run();
      });
    }
    for (std::thread &block : blocks) block.join();
  }

 private:
  static constexpr uint64_t poison = 0x5a5a5a5a5a5a5a5a;

  static uint8_t *bytesOf(std::vector<uint64_t> &words) { return reinterpret_cast<uint8_t *>(words.data()); }

  // What NCCL does: every rank gets the `count` words that each one has told itself.
  void gather(uint32_t *PlanBuffer::*table, uint32_t count) {
    for (const PlanBuffer &to : rank) {
      for (uint32_t from = 0; from < sizes.ranks; from++) {
        const uint64_t at = uint64_t{from} * count;
        std::copy_n(rank[from].*table + at, count, to.*table + at);
      }
    }
  }

  template <class F>
  void ofDevices(F f) {
    for (const auto &device : placed) f(device->params);
  }

  static BlockWords &shared() {
    static thread_local BlockWords words;
    return words;
  }

  // Calls pass(number) by a block of threads for each number below `count`.
  template <class F>
  void byBlocks(uint32_t count, uint32_t threads, F pass) {
    for (uint32_t number = 0; number < count; number++) {
      std::fill(std::begin(sharedWords), std::end(sharedWords), 0xa5a5a5a5);
      emulated::Block(threads, seed++, [&] { pass(number); }).run();
    }
  }

  // Calls pass(local, first) by a block for the `warpsOfBlock` numbers from `first` on, below `count`.
  template <class F>
  void byWarps(const PlanParams &params, uint32_t count, F pass) {
    for (uint32_t first = 0; first < count; first += warpsOfBlock) {
      byBlocks(params.localRanks, warpsOfBlock * warpSize_, [&](uint32_t local) { pass(local, first); });
    }
  }
};

template <class A, class B>
bool same(const A *found, const B *expected, uint64_t count) {
  static_assert(sizeof(A) == sizeof(B));
  return std::memcmp(found, expected, count * sizeof(A)) == 0;
}

// The tables of which a shard is packed.
void compareShard(const RandomRouting &routed, const PlanSizes &sizes, const PlanBuffer &found, uint32_t r) {
  const fusco_buffer bytes = {const_cast<uint32_t *>(routed.shards[r].data()),
                              routed.shards[r].size() * sizeof(uint32_t)};
  const ShardReader shard(bytes, r, sizes.ranks);
  const auto compare = [&](int section, const auto *table) {
    const auto expected = shard.section<std::decay_t<decltype(*table)>>(section);
    CHECK(same(table, expected.data(), expected.size()));
  };
  compare(FUSCO_S_EXPERT_OFFSET, found.expertOffset);
  compare(FUSCO_S_EXPERT_ROWS, found.expertRows);
  compare(FUSCO_S_RUN_ROW, found.recvRow);
  compare(FUSCO_S_RUN_ROWS, found.recvRows);
  compare(FUSCO_S_SEND_ROW, found.runRow);
  compare(FUSCO_S_SEND_ROWS, found.runRows);
  compare(FUSCO_S_ENTRY_SLOT, found.slot);
  compare(FUSCO_S_ENTRY_INSTANCE, found.instance);
  compare(FUSCO_S_SEND_ENTRY, found.sendEntry);
  const PlanState &state = *found.state;
  CHECK(state.badEntry == UINT64_MAX && state.tokens == routed.tokens[r]);
  CHECK(state.masked == shard.word(FUSCO_W_MASKED) && state.recvRows == shard.word(FUSCO_W_RECV_ROWS));
  if (sizes.isFlat != 0) return;
  CHECK(state.stageRows == shard.word(FUSCO_W_STAGE_ROWS) && state.staged == shard.word(FUSCO_W_STAGED));
  compare(FUSCO_S_FORWARD_ROW, found.landingRow);
  compare(FUSCO_S_FORWARD_ROWS, found.nodeRows + uint64_t{r} * sizes.nodes);
  compare(FUSCO_S_FORWARD_TOKEN, found.token);
  compare(FUSCO_S_FORWARD_TARGET, found.target);
  compare(FUSCO_S_DISTRIBUTE_OFFSET, found.offset);
  compare(FUSCO_S_DISTRIBUTE_ENTRY, found.distributed);
  compare(FUSCO_S_STAGE_ROW, found.sourceRow);
  compare(FUSCO_S_STAGE_ROWS, found.sourceRows);
}

// Blocks clipped to the bound of receive buffers, and what is lost.
void compareClipped(const PlanSizes &sizes, const PlanBuffer &found, uint32_t localInstances) {
  uint32_t overflow = 0;
  for (uint32_t j = 0; j <= localInstances; j++) {
    const uint32_t row = std::min(found.expertOffset[j], sizes.maxRecvRows);
    CHECK(found.clippedOffset[j] == row);
    if (j == localInstances) continue;
    const uint32_t rows = std::min(found.expertRows[j], sizes.maxRecvRows - row);
    CHECK(found.clippedRows[j] == rows);
    overflow += found.expertRows[j] - rows;
  }
  CHECK(found.state->overflowRows == overflow);
}

// The tables that exchanges read; `expected`: those of plain loops.
void compareTables(const PlanBuffer &found, const Buffers &expected, uint32_t r, bool hasOthers) {
  const PlanSizes &sizes = expected.sizes;
  const PlanBuffer &wanted = expected.rank[r];
  const RankBits local = expected.deviceRanks[r];
  const uint32_t entries = wanted.tokens[r] * sizes.topk;
  CHECK(same(found.place, wanted.place, entries));
  const DevicePlanHead &head = *found.head, &wantedHead = *wanted.head;
  CHECK(same(&head.topk, &wantedHead.topk, 6) && head.rankOf[0] == r && head.originOf[0] == r);
  CHECK(same(head.tokenStart, wantedHead.tokenStart, 2));
  CHECK(same(found.paddings, wanted.paddings, head.paddings));
  CHECK(same(found.tokens, wanted.tokens, sizes.ranks));
  if (!hasOthers) return;
  CHECK(same(found.send, wanted.send, entries) && same(found.terms, wanted.terms, entries));
  for (uint32_t from = 0; from < sizes.ranks; from++) {
    if (local.has(from)) continue;
    const uint64_t start = arrivalStart(sizes, local, from);
    const uint32_t tokens = wanted.tokens[from];
    CHECK(same(found.arrivalRow + start, wanted.arrivalRow + start, tokens));
    CHECK(same(found.arrival + start * sizes.topk, wanted.arrival + start * sizes.topk, tokens * sizes.topk));
  }
  if (local.count() > 1) return;
  const OnePassHead &one = *found.onePass, &wantedOne = *wanted.onePass;
  CHECK(same(&one.ranks, &wantedOne.ranks, 5) && same(one.tokens, wantedOne.tokens, sizes.ranks));
  CHECK(same(one.tokenStart, wantedOne.tokenStart, sizes.ranks + 1));
  CHECK(same(one.localStart, wantedOne.localStart, one.locals));
  CHECK(same(one.arrivalStart, wantedOne.arrivalStart, sizes.ranks));
  CHECK(same(one.local, wantedOne.local, one.locals) && same(one.remote, wantedOne.remote, one.remotes));
  CHECK(same(one.localOf, wantedOne.localOf, sizes.ranks));
}

void compare(const RandomRouting &routed, const std::vector<uint32_t> &deviceOf, uint32_t limit,
             bool isProcess, bool isSmall, uint32_t seed) {
  Devices devices(routed, deviceOf, limit, isProcess, seed);
  if (isSmall) {
    CHECK(devices.sizes.isSmall != 0);
    devices.planSmall();
  } else {
    devices.plan();
  }
  devices.checkEnds();
  const Buffers expected(routed, deviceOf, limit);
  const std::vector<uint32_t> &rankFirst = devices.spec.placement.rankFirst;
  const bool hasOthers = devices.placed.size() > 1;
  for (uint32_t r = 0; r < devices.sizes.ranks; r++) {
    const PlanBuffer &found = devices.rank[r];
    compareShard(routed, devices.sizes, found, r);
    compareClipped(devices.sizes, found, rankFirst[r + 1] - rankFirst[r]);
    compareTables(found, expected, r, hasOthers);
  }
}

// Each rank on a different machine: its shard, packed from what the host reads back of its plan buffer.
void compareReadBack(const RandomRouting &routed, uint32_t limit, uint32_t seed) {
  std::vector<uint32_t> each(routed.options.ranks);
  for (uint32_t rank = 0; rank < each.size(); rank++) each[rank] = rank;
  Devices devices(routed, each, limit, true, seed);
  devices.separate();
  devices.plan();
  devices.checkEnds();
  const Buffers expected(routed, each, limit);
  const uint64_t bytes = shardTableBytes(devices.placed[0]->params.offsets);
  for (uint32_t r = 0; r < devices.sizes.ranks; r++) {
    compareTables(devices.rank[r], expected, r, false);
    std::vector<uint64_t> copied(bytes / sizeof(uint64_t));
    std::memcpy(copied.data(), devices.memory[r].data(), bytes);
    PlanBuffer tables{};
    layPlanBuffer(devices.sizes, reinterpret_cast<uint8_t *>(copied.data()), tables);
    const auto read = [&copied](void *to, const void *from, uint64_t size) {
      if (size == 0) return;
      const auto *first = static_cast<const uint8_t *>(from);
      const auto *start = reinterpret_cast<const uint8_t *>(copied.data());
      CHECK(first >= start && first + size <= start + copied.size() * sizeof(uint64_t));
      std::memcpy(to, from, size);
    };
    const std::vector<uint32_t> &wanted = routed.shards[r];
    std::vector<uint32_t> shard(wanted.size());
    const uint64_t needed = packShard(devices.spec, r, tables, *tables.state, read, {});
    CHECK(needed == wanted.size() * sizeof(uint32_t));
    packShard(devices.spec, r, tables, *tables.state, read, {shard.data(), needed});
    CHECK(shard == wanted);
  }
}

// Several ranks of one device, a device for some ranks, and a process for each; small plans of one device.
void compareAll(const RandomRouting &routed, uint32_t limit, uint32_t seed) {
  const uint32_t ranks = routed.options.ranks;
  std::vector<uint32_t> one(ranks), some(ranks), each(ranks);
  for (uint32_t rank = 0; rank < ranks; rank++) {
    some[rank] = rank * ((ranks + 1) / 2) / ranks;
    each[rank] = rank;
  }
  compare(routed, one, limit, false, false, seed);
  if (ranks > 1) {
    compare(routed, some, limit, false, false, seed);
    compare(routed, each, limit, true, false, seed);
    compareReadBack(routed, limit, seed);
  }
  if (sizesOf(routed, limit).isSmall != 0) compare(routed, one, limit, false, true, seed);
}

// Sizes on both sides of the bounds that decide which parts of tables are in shared memory.
void manyTargets() {
  constexpr uint32_t ranks = 2, mostTokens = 300;
  // Seeds of routings with several tiles.
  struct Expected {
    uint32_t experts, seed;
    bool isStaged, hasCopies;
  };
  for (const Expected &expected : {Expected{700, 24, true, true}, Expected{900, 8, true, false},
                                   Expected{1100, 24, false, true}, Expected{2500, 24, false, false}}) {
    const RandomRouting routed(expected.seed, mostTokens, expected.experts, ranks);
    const PlanSizes sizes = sizesOf(routed, 0);
    const TileShared shared(sizes, warpsOfBlock, true, false);
    CHECK(sizes.maxEntries() > sizes.tileEntries);
    CHECK((shared.staged > 0) == expected.isStaged && (shared.targetWords > 0) == expected.hasCopies);
    CHECK(shared.bytes() <= maxTileShared);
    compareAll(routed, 0, expected.seed);
  }
}

// More ranks, and nodes, than a warp has lanes.
void manyRanks() {
  for (const uint32_t seed : {1u, 3u}) compareAll(RandomRouting(seed, 6, 80, 42), 0, seed);
}

// The GPU's tests plan as many tokens as just fit the shared memory of a block, and a few more.
void smallSizes() {
  struct Sizes {
    fusco_strategy strategy;
    uint32_t ranks, experts, topk, most;
  };
  constexpr fusco_strategy flat = FUSCO_STRATEGY_FLAT, hier = FUSCO_STRATEGY_HIER;
  for (const Sizes &given :
       {Sizes{hier, 8, 256, 8, 336}, Sizes{flat, 8, 256, 8, 472}, Sizes{hier, 2, 16, 4, 928},
        Sizes{hier, 4, 16, 4, 928}, Sizes{hier, 8, 16, 4, 928}}) {
    auto options = fusco_sized<fusco_plan_options>();
    options.ranks = given.ranks;
    options.experts = given.experts;
    options.topk = given.topk;
    options.strategy = given.strategy;
    options.ranks_per_node = 1;
    options.align = 1;
    options.hidden = 8;
    const planning::Spec spec = planning::makeSettledSpec(options);
    auto limits = fusco_sized<fusco_cuda_plan_limits>();
    limits.max_tokens = given.most;
    CHECK(planSizes(spec, limits).isSmall == 1);
    limits.max_tokens = given.most + 40;
    CHECK(planSizes(spec, limits).isSmall == 0);
  }
}

}  // namespace

int main(int argc, char **argv) {
  const auto cases = static_cast<uint32_t>(argc > 1 ? std::atoi(argv[1]) : 25);
  smallSizes();
  manyTargets();
  manyRanks();
  for (uint32_t seed = 0; seed < cases; seed++) {
    // Some tables have one tile, others several.
    const RandomRouting routed(seed, seed % 4 == 0 ? 60 : 20);
    Random random(seed);
    compareAll(routed, upTo(random, 2) == 0 ? 1 + upTo(random, 30) : 0, seed);
  }
  std::printf("%u routings\n", cases);
  return 0;
}
