// The local rank's shard in the form in which it executes it: who gets which rows, and in which order they
// are added on the way back. Checked, and free of CUDA and NCCL.
#pragma once

#include <cstdint>
#include <vector>

#include "fusco_nccl.h"
#include "plan.hpp"
#include "rank_places.hpp"
#include "rounds.hpp"

namespace fusco::nccl {

// Ranks of one machine, the local one included: kernels get a pointer for each.
constexpr uint32_t maxNeighbors = 60;
// The number by which kernels and tables know the landing buffer, where rows from other machines are.
constexpr uint32_t landingPeer = maxNeighbors;
constexpr uint32_t maxPeersPerRound = 8;

// The ranks of a group as one of them sees it. Its neighbors are the ranks of its machine, itself included.
struct Neighbors {
  uint32_t ranks;
  uint32_t rank;
  uint32_t self;                    // index of the local rank among its neighbors
  std::vector<uint32_t> rankAt;     // [neighbors], ascending
  std::vector<int32_t> indexOf;     // [ranks], index among the neighbors, or -1
  std::vector<uint32_t> machineOf;  // [ranks]

  // `machines` [ranks]. Throws E_LIMIT for more than maxNeighbors.
  Neighbors(uint32_t groupRanks, uint32_t localRank, const uint32_t *machines);
  bool has(uint32_t peer) const { return indexOf[peer] >= 0; }
  // Whether the group has one machine.
  bool areAll() const { return count() == ranks; }
  uint32_t count() const { return static_cast<uint32_t>(rankAt.size()); }
};

// Throws E_BACKEND unless the ranks of each node of a hierarchical plan are on one machine.
void checkNodesOnMachines(uint32_t ranksPerNode, const Neighbors &neighbors);

// A row that combine adds: a slot of a neighbor, or a row of the landing buffer.
struct SumTerm {
  uint32_t peer;  // index of a neighbor, or landingPeer
  uint32_t row;
  uint32_t weight;  // index of its weight: the entry at the source, the place at a forwarder
  uint32_t flags;
};
constexpr uint32_t closesNode = 1;  // the last of its node: a tree then adds the partial sum
constexpr uint32_t isPartial = 2;   // a finished partial sum of another node: no weight

// Sums of several rows each: terms of sum i are [offset[i], offset[i + 1]).
struct Sums {
  std::vector<uint32_t> offset{0};
  std::vector<SumTerm> terms;
  void close() { offset.push_back(static_cast<uint32_t>(terms.size())); }
};

// What a forwarder was told of the rows that land at it: row i goes to places [offset[i], offset[i + 1]).
struct Landing {
  std::vector<uint32_t> offset{0};
  std::vector<Place> places;  // peer: index of a neighbor
};

// Tables that a plan copies to the device and then frees.
struct UploadedTables {
  // [tokens, topk]: the slot at a neighbor; row < 0 for everything else.
  std::vector<Place> direct;
  // The same, but a row has one slot at each other neighbor: the lowest. Empty without other neighbors, and
  // of one-pass plans.
  std::vector<Place> directOnce;
  // [tokens, topk]: the slot at a neighbor, or the landing row to which the entry's row returns. Not of
  // one-pass plans.
  std::vector<Place> returned;
  std::vector<uint32_t> entryOrder;  // entries in the order of entrySend
  std::vector<uint32_t> rowOrder;    // tokens in the order of rowSend
  std::vector<uint32_t> rowEntries;  // places of each of those rows
  std::vector<uint32_t> placeEntry;  // their entries, by k
  std::vector<Place> placeOf;        // {rank, slot} of those entries
  Sums sums;                         // of each token; not of one-pass plans
  // [recvRows + 1] of one-pass plans: the rank whose row a slot gets, or noSource. The last one is no slot.
  std::vector<uint8_t> sourceOfSlot;
};

class RankTables : public UploadedTables {
 public:
  // Slots from `maxRecvRows` on behave as dropped, on all ranks: no row is sent to them, and none is added;
  // not of one-pass plans.
  // Throws E_RANKS, E_LIMIT, E_SHARD_LAYOUT, E_SHARD_HEAD, E_SEGMENT_BOUNDS, E_ENTRY, E_OPTION, E_BACKEND.
  // The description is not used after the call; `neighbors` must outlive the object.
  RankTables(const fusco_nccl_plan_desc &desc, const Neighbors &neighbors,
             uint32_t maxRecvRows = FUSCO_MAX_ROWS);
  // Of a plan that was made on the device, where its tables are: sizes only. All ranks are on one machine.
  RankTables(const fusco_plan &planSizes, const Neighbors &neighbors);

  // Whether the kernels of one-pass exchanges do all the work: all ranks are on one machine, so none forwards
  // for others, whatever the plan calls a node.
  bool isOnePass() const { return neighbors_.areAll() && neighbors_.ranks > 1; }
  // Whether each rank adds its rows of a token and sends one partial sum: the tree of the plan must say so.
  bool sumsPerRank() const { return isOnePass() && sizes.tree != Tree::none && sizes.ranksPerNode == 1; }
  // Whether rows for a peer go straight into its memory: it is a neighbor and, along a hierarchical plan, of
  // the same node. Rows for other nodes of the machine are cheaper sent once and distributed there: measured
  // over NVLink.
  bool isDirect(uint32_t peer) const {
    return neighbors_.has(peer) && (!sizes.isHierarchical || isOnePass() ||
                                    peer / sizes.ranksPerNode == neighbors_.rank / sizes.ranksPerNode);
  }

  // The local rank's sizes as a plan of one rank, for the checks that all backends share.
  fusco_plan sizes;
  bool forwards = false;  // rows for other nodes go to forwarders
  // Whether forwarders add rows in a combine and return partial sums; otherwise every row returns.
  bool returnsPartials() const { return forwards && sizes.tree != Tree::none; }

  // Rows of each neighbor's buffer that are touched: one more than the largest.
  std::vector<uint32_t> reach;  // [neighbors]

  // One row per entry, to its final slot at a rank that is not reached directly.
  SendOrder entrySend;
  SendOrder entryReceive;  // first rows are slots of the receive buffer
  // One row per token and node, to its forwarder. Empty unless `forwards`.
  SendOrder rowSend;
  SendOrder rowReceive;

  // `counts`: places of each row that this forwarder receives, as the sources said. Throws E_PEER_MISMATCH,
  // with the source, unless each row has 1 to topk; or none, if slots may behave as dropped.
  void checkDestinations(const std::vector<uint32_t> &counts) const;
  // Checks what sources told this forwarder: counts[i] places {rank, slot} for landed row i, of ranks of its
  // node. Turns ranks into neighbors and extends `reach`. Throws E_PEER_MISMATCH with the rank that sent
  // something else.
  Landing readLanding(const std::vector<uint32_t> &counts, const std::vector<Place> &places);
  // Checks what a source told this rank of a one-pass plan: slots [tokens, topk] as
  // RankPlaces::writeArrival() writes them, and landing rows [tokens] below `landingRows`, the source's.
  // To be called once for each other rank, then checkAllTold(). Throw E_PEER_MISMATCH with the source.
  void checkArrival(uint32_t source, const uint32_t *slots, const uint32_t *landingRow, uint32_t tokens,
                    uint32_t landingRows);
  void checkAllTold() const;

 private:
  // The rows of a run that have slots below the bound.
  Run belowBound(const RowRange &run) const;
  // Drops what the bound leaves out of the receive buffer.
  void boundReceive();
  void layOutEntries(const CheckedShard &shard, const fusco_nccl_plan_desc &desc);
  // Returns partialRow of listSums().
  std::vector<uint32_t> layOutForwarding(const CheckedShard &shard, const fusco_nccl_plan_desc &desc);
  void listSums(const std::vector<uint32_t> &partialRow);

  const Neighbors &neighbors_;
  uint32_t maxRecvRows_ = FUSCO_MAX_ROWS;
};

}  // namespace fusco::nccl
