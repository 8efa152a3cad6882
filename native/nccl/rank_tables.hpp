// A rank's own shard in the form in which it executes it: who gets which rows, and in which order they are
// added on the way back. Checked, and free of CUDA and NCCL.
#pragma once

#include <cstdint>
#include <vector>

#include "device_tables.hpp"
#include "fusco_nccl.h"
#include "plan.hpp"
#include "rounds.hpp"
#include "shard.hpp"

namespace fusco::nccl {

using cuda::Place;

// Ranks of the own host, the own one included: numbers of pointers in kernel parameters.
constexpr uint32_t maxNeighbors = 60;
// Where kernels find what came over the wire.
constexpr uint32_t landingPeer = maxNeighbors;
constexpr uint32_t maxPeersPerRound = 8;

// The ranks of a group as one of them sees it.
struct Neighbors {
  uint32_t ranks;
  uint32_t rank;
  uint32_t self;                 // number of the own rank among its neighbors
  std::vector<uint32_t> local;   // neighbors, ascending; the own rank among them
  std::vector<int32_t> localOf;  // [ranks], number among the neighbors, or -1

  Neighbors(uint32_t groupRanks, uint32_t ownRank, const uint32_t *hosts);
  bool isLocal(uint32_t peer) const { return localOf[peer] >= 0; }
};

// A row that combine adds: a slot of a neighbor, or row `row` of what came over the wire.
struct SumTerm {
  uint32_t peer;  // number of a neighbor, or landingPeer
  uint32_t row;
  uint32_t weight;  // index of its weight: entry at home, place at a forwarder
  uint32_t flags;
};
constexpr uint32_t closesNode = 1;  // the last of its node: a tree then adds the partial sum
constexpr uint32_t isPartial = 2;   // a finished partial sum of another host's node: no weight

// Sums of several rows each: terms of sum i are [offset[i], offset[i + 1]).
struct Sums {
  std::vector<uint32_t> offset{0};
  std::vector<SumTerm> terms;
  void close() { offset.push_back(static_cast<uint32_t>(terms.size())); }
};

// What a forwarder was told of the rows that land at it: row i goes to places [offset[i], offset[i + 1]).
struct Landing {
  std::vector<uint32_t> offset{0};
  std::vector<Place> places;
};

class RankTables {
 public:
  // Throws E_RANKS, E_LIMIT, E_SHARD_LAYOUT, E_SHARD_HEAD, E_SEGMENT_BOUNDS, E_ENTRY, E_BACKEND.
  RankTables(const fusco_nccl_plan_desc &desc, const Neighbors &near);

  // Whether rows for a peer go straight into its memory: it shares the host and, along a hierarchical plan,
  // the node. Rows for other nodes of the host are cheaper sent once and spread there: measured over NVLink.
  bool isDirect(uint32_t peer) const {
    return near_.isLocal(peer) &&
           (sizes.tree == Tree::none || peer / sizes.ranksPerNode == near_.rank / sizes.ranksPerNode);
  }

  // The same sizes as a plan of one rank, for the checks that all backends share.
  fusco_plan sizes;
  bool forwards = false;  // rows for other nodes go to forwarders

  // [tokens, topk]: the slot at a neighbor; row < 0 for everything else.
  std::vector<Place> direct;
  // [tokens, topk]: the slot at a neighbor, or the landing row of the entry's own row come home.
  std::vector<Place> returned;
  // Rows from each neighbor's buffer that are touched: one more than the largest.
  std::vector<uint32_t> reach;  // [neighbors]

  // One row an entry, to its final slot at a rank that is not reached directly.
  SendOrder entrySend;
  SendOrder entryReceive;             // first rows are slots of the receive buffer
  std::vector<uint32_t> entryStream;  // entries in the order of entrySend
  // One row a token and node, to its forwarder. Empty unless `forwards`.
  SendOrder rowSend;
  SendOrder rowReceive;
  std::vector<uint32_t> rowStream;   // tokens in the order of rowSend
  std::vector<uint32_t> rowEntries;  // places of each of those rows
  std::vector<uint32_t> placeEntry;  // their entries, by k
  std::vector<Place> placeOf;        // {rank, slot} of those entries

  Sums home;  // of each token

 private:
  void readBlocks(const ShardReader &reader);
  void readEntries(const ShardReader &reader, const fusco_nccl_plan_desc &desc);
  void readRuns(const ShardReader &reader);
  void readForward(const ShardReader &reader, const fusco_nccl_plan_desc &desc);
  void listSums();

  const Neighbors &near_;
  std::vector<uint32_t> rankOfEntry_;
  std::vector<uint32_t> partialRow_;  // [tokens, nodes]: row of rowStream; only while reading
  std::vector<int32_t> slotOfEntry_;
};

// Checks what sources told this forwarder: `rowEntries` places for each landed row, of ranks in `nodeRanks`,
// and turns ranks into neighbors. Throws E_PEER_MISMATCH with the rank that sent nonsense.
Landing readLanding(const Neighbors &near, const SendOrder &received, uint32_t topk, uint32_t ranksPerNode,
                    const std::vector<uint32_t> &rowEntries, const std::vector<Place> &places,
                    std::vector<uint32_t> &reach);

}  // namespace fusco::nccl
