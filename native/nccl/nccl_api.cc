// The C interface: turns failures into statuses, and gives a group up when one of its calls has failed after
// it began.

#include <cstring>

#include "guard.hpp"
#include "nccl_exchange.hpp"
#include "structs.hpp"

namespace {

using fusco::Failure;
using fusco::guarded;
using fusco::nccl::Group;
using fusco::nccl::Plan;

void checkGiven(bool given) {
  if (!given) throw Failure(FUSCO_E_OPTION, "a handle or an argument is NULL");
}

// Runs `work`, which enters a call of `group`, unless an argument is missing. A call that is refused before
// it is entered leaves the group as it is. After that peers may be waiting for this rank.
template <class F>
fusco_status call(Group *group, bool given, fusco_error *error, F work) {
  return guarded(error, [&] {
    checkGiven(group != nullptr && given);
    const fusco::cuda::OnDevice here(group->device());
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

Group *groupOf(const fusco_nccl_group *handle) { return handle == nullptr ? nullptr : handle->shared.get(); }

fusco_nccl_call callFrom(const fusco_nccl_call *given) { return fusco::structFrom(given, "fusco_nccl_call"); }

// Runs an exchange of a plan; `name` is the type of its call.
template <class Call, class F>
fusco_status exchange(F run, fusco_nccl_plan *plan, const fusco_nccl_call *id, const Call *given,
                      const char *name, fusco_nccl_report *report, const fusco_nccl_peers *peers,
                      fusco_error *error) {
  return call(plan == nullptr ? nullptr : &plan->shared->group(), true, error, [&] {
    auto measured = fusco_sized<fusco_nccl_report>();
    fusco_nccl_peers arrays{};
    if (peers != nullptr) arrays = fusco::structFrom(peers, "fusco_nccl_peers");
    const fusco_nccl_call identity = callFrom(id);
    const fusco::CallFrom<Call> from(given, name);
    run(*plan->shared, identity, from.call, measured, peers == nullptr ? nullptr : &arrays);
    fusco::structTo(report, measured, "fusco_nccl_report");
  });
}

}  // namespace

extern "C" {

fusco_status fusco_nccl_unique_id(uint8_t id[FUSCO_NCCL_ID_BYTES], fusco_error *error) {
  return guarded(error, [&] {
    checkGiven(id != nullptr);
    const fusco::nccl::Library &library = fusco::nccl::openLibrary(nullptr);
    fusco::nccl::abi::UniqueId made;
    const auto result = library.getUniqueId(&made);
    if (result != fusco::nccl::abi::success) {
      throw Failure(FUSCO_E_BACKEND, "NCCL makes no id: %s", library.getErrorString(result));
    }
    std::memcpy(id, made.internal, FUSCO_NCCL_ID_BYTES);
  });
}

fusco_status fusco_nccl_group_create(const fusco_nccl_group_desc *desc, fusco_nccl_group **group,
                                     fusco_error *error) {
  return guarded(error, [&] {
    checkGiven(group != nullptr);
    const auto from = fusco::structFrom(desc, "fusco_nccl_group_desc");
    *group = new fusco_nccl_group{std::make_shared<Group>(from)};
  });
}

void fusco_nccl_abort(fusco_nccl_group *group, const char *why) {
  if (group != nullptr) group->shared->abort(why);
}

void fusco_nccl_group_destroy(fusco_nccl_group *group) { delete group; }

fusco_status fusco_nccl_check(fusco_nccl_group *group, fusco_error *error) {
  return call(groupOf(group), true, error, [&] {
    // A failure that a kernel has found is one of the group.
    group->shared->enter(fusco_sized<fusco_nccl_call>());
  });
}

fusco_status fusco_nccl_register(fusco_nccl_group *group, const fusco_buffer *buffers, uint32_t count,
                                 fusco_error *error) {
  return call(groupOf(group), buffers != nullptr || count == 0, error, [&] {
    Group &shared = *group->shared;
    shared.enter(fusco_sized<fusco_nccl_call>());
    if (!shared.hasNeighbors()) return;
    for (uint32_t i = 0; i < count; i++) {
      shared.registry().share(buffers[i], shared.waiting("mapping memory of this rank"));
    }
  });
}

fusco_status fusco_nccl_deregister(fusco_nccl_group *group, const fusco_buffer *buffers, uint32_t count,
                                   fusco_error *error) {
  return call(groupOf(group), buffers != nullptr || count == 0, error, [&] {
    if (!group->shared->hasNeighbors()) return;
    for (uint32_t i = 0; i < count; i++) group->shared->registry().unshare(buffers[i]);
  });
}

fusco_status fusco_nccl_all_gather(fusco_nccl_group *group, const fusco_nccl_call *id, const void *local,
                                   void *all, uint64_t bytes, fusco_error *error) {
  return call(groupOf(group), local != nullptr && all != nullptr, error, [&] {
    constexpr uint64_t most = 64 << 20;
    if (bytes > most) {
      throw Failure(FUSCO_E_LIMIT, "%llu bytes to gather", bytes).limited(bytes, most);
    }
    Group &shared = *group->shared;
    shared.enter(callFrom(id));
    if (bytes == 0) return;
    shared.throughDevice(local, bytes, all, shared.neighbors().ranks * bytes, "gathering",
                         [&](const uint8_t *from, uint8_t *to) { shared.allGather(from, to, bytes); });
  });
}

fusco_status fusco_nccl_plan_create(fusco_nccl_group *group, const fusco_nccl_call *id,
                                    const fusco_nccl_plan_desc *desc, fusco_nccl_plan **plan,
                                    fusco_error *error) {
  return call(groupOf(group), plan != nullptr, error, [&] {
    const auto from = fusco::structFrom(desc, "fusco_nccl_plan_desc");
    *plan = new fusco_nccl_plan{std::make_shared<Plan>(group->shared, callFrom(id), from)};
  });
}

void fusco_nccl_plan_destroy(fusco_nccl_plan *plan) { delete plan; }

fusco_status fusco_nccl_plan_bytes(const fusco_nccl_plan *plan, uint64_t row_bytes, fusco_nccl_bytes *bytes,
                                   fusco_error *error) {
  return guarded(error, [&] {
    checkGiven(plan != nullptr && bytes != nullptr);
    fusco::structTo(bytes, plan->shared->bytes(row_bytes), "fusco_nccl_bytes");
  });
}

fusco_status fusco_nccl_dispatch(fusco_nccl_plan *plan, const fusco_nccl_call *id,
                                 const fusco_dispatch_call *dispatch, fusco_nccl_report *report,
                                 const fusco_nccl_peers *peers, fusco_error *error) {
  return exchange(fusco::nccl::dispatch, plan, id, dispatch, "fusco_dispatch_call", report, peers, error);
}

fusco_status fusco_nccl_combine(fusco_nccl_plan *plan, const fusco_nccl_call *id,
                                const fusco_combine_call *combine, fusco_nccl_report *report,
                                const fusco_nccl_peers *peers, fusco_error *error) {
  return exchange(fusco::nccl::combine, plan, id, combine, "fusco_combine_call", report, peers, error);
}

fusco_status fusco_nccl_weight_gradient(fusco_nccl_plan *plan, const fusco_nccl_call *id,
                                        const fusco_weight_gradient_call *gradient, fusco_nccl_report *report,
                                        const fusco_nccl_peers *peers, fusco_error *error) {
  return exchange(fusco::nccl::weightGradient, plan, id, gradient, "fusco_weight_gradient_call", report,
                  peers, error);
}

fusco_status fusco_nccl_combine_gradient(fusco_nccl_plan *plan, const fusco_nccl_call *id,
                                         const fusco_combine_gradient_call *gradient,
                                         fusco_nccl_report *report, const fusco_nccl_peers *peers,
                                         fusco_error *error) {
  return exchange(fusco::nccl::combineGradient, plan, id, gradient, "fusco_combine_gradient_call", report,
                  peers, error);
}

}  // extern "C"
