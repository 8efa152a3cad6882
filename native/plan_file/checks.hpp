// The checks of one shard, by subject: what the head and tables say (check_tables.cc), rows (check_rows.cc),
// slices and tiles (check_schedule.cc), forwarding (check_forward.cc) and replicas (check_replicas.cc). Each
// throws at the first defect.
#pragma once

#include "landing_passes.hpp"
#include "verify.hpp"

namespace fusco::plan_file {

// A whole plan while it is verified.
struct Plan {
  const Spec &spec;
  const Decision &decision;
  const std::vector<ShardView> &shards;
  std::vector<uint32_t> nodeRows;  // [ranks, nodes] as the shards claim; empty in flat plans
};

// A defect at `path` of a rank's shard.
template <class... Args>
Failure defect(fusco_status status, uint32_t rank, const std::string &path, const char *format,
               Args... args) {
  return Failure(status, format, args...).atRank(rank).at("/ranks/%u%s", rank, path.c_str());
}

inline std::string place(const char *name, uint64_t index) {
  return std::string("/") + name + "/" + std::to_string(index);
}

// Throws E_SHARD_HEAD unless a word or a count at the shard's head is what it must be.
inline void checkWord(uint32_t rank, const char *name, uint64_t found, uint64_t wanted) {
  if (found == wanted) return;
  throw defect(FUSCO_E_SHARD_HEAD, rank, "/head", "%s is %llu, not %llu", name, found, wanted)
      .limited(found, wanted);
}

// What a shard says by itself.
void checkHead(const Plan &plan, uint32_t rank);
void checkReceive(const Plan &plan, uint32_t rank);
void checkForwardRows(const Plan &plan, uint32_t rank);
// The sender's runs against the receivers'.
void checkSend(const Plan &plan, uint32_t rank);
// The groups are those that the plan's own rule gives for the rows that ranks claim to forward.
void checkGroups(const Plan &plan);
// What a shard's rows must fulfil once the tables of all ranks agree.
void checkEntries(const Plan &plan, uint32_t rank);
void checkSendOrder(const Plan &plan, uint32_t rank);
void checkDirectSlices(const Plan &plan, uint32_t rank);
void checkTileOrder(const Plan &plan, uint32_t rank);
void checkReplicas(const Plan &plan, uint32_t rank);
void checkLanding(const Plan &plan, uint32_t rank);
void checkForward(const Plan &plan, uint32_t rank);
void checkForwardSlices(const Plan &plan, uint32_t rank);
// The quotas of all ranks are those that follow from their entries per expert.
void checkQuotas(const Plan &plan);

}  // namespace fusco::plan_file
