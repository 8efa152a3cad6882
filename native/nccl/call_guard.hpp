// How the functions of the C interface run: failures become statuses, and a group is given up when one of its
// calls has failed after it began.
#pragma once

#include "guard.hpp"
#include "nccl_planner.hpp"
#include "structs.hpp"

namespace fusco::nccl {

inline void checkGiven(bool given) {
  if (!given) throw Failure(FUSCO_E_OPTION, "a handle or an argument is NULL");
}

// Runs `work`, which enters a call of `group`, unless an argument is missing. A call that is refused before
// it is entered leaves the group as it is. After that peers may be waiting for this rank.
template <class F>
fusco_status call(Group *group, bool given, fusco_error *error, F work) {
  return guarded(error, [&] {
    checkGiven(group != nullptr && given);
    const cuda::OnDevice here(group->device());
    group->leave();
    try {
      work();
    } catch (const Failure &failure) {
      if (group->hasEntered()) group->fail(failure);
      throw;
    }
    group->leave();
  });
}

inline Group *groupOf(const fusco_nccl_group *handle) {
  return handle == nullptr ? nullptr : handle->shared.get();
}

inline Group *groupOf(const fusco_nccl_plan *handle) {
  if (handle == nullptr) return nullptr;
  return handle->buffered == nullptr ? &handle->shared->group() : &handle->buffered->planner().group();
}

inline Group *groupOf(const fusco_nccl_planner *handle) {
  return handle == nullptr ? nullptr : &handle->shared->group();
}

inline fusco_nccl_call callFrom(const fusco_nccl_call *given) { return structFrom(given, "fusco_nccl_call"); }

}  // namespace fusco::nccl
