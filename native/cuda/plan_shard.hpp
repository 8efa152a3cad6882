// The canonical shard of a rank, from the tables of its plan buffer. No CUDA.
#pragma once

#include <functional>

#include "plan_buffer.hpp"
#include "spec.hpp"

namespace fusco::cuda {

// Copies bytes of a plan buffer's tables to host memory.
using ReadTable = std::function<void(void *to, const void *from, uint64_t bytes)>;

// Writes the shard of `rank` from the tables of its plan buffer, whose state is `found`, unless `shard` has
// no memory. Bad ids are masked. Returns its bytes. Throws E_BUFFER, E_LIMIT, and what `read` throws.
uint64_t packShard(const planning::Spec &spec, uint32_t rank, const PlanBuffer &tables,
                   const PlanState &found, const ReadTable &read, const fusco_buffer &shard);

// Bytes at the start of a plan buffer with all tables that a shard is packed of, and the facts. `offsets`:
// the tables of a plan buffer at address 0.
inline uint64_t shardTableBytes(const PlanBuffer &offsets) {
  return reinterpret_cast<uintptr_t>(offsets.head);
}

}  // namespace fusco::cuda
