// The C interface: turns failures into statuses, and nothing else.

#include <cstring>

#include "call_guard.hpp"
#include "nccl_exchange.hpp"

namespace {

using fusco::Failure;
using fusco::guarded;
using fusco::nccl::call;
using fusco::nccl::callFrom;
using fusco::nccl::checkGiven;
using fusco::nccl::Group;
using fusco::nccl::groupOf;
using fusco::nccl::Plan;

// Runs an exchange of a plan; `name` is the type of its call.
template <class Call, class F>
fusco_status exchange(F run, fusco_nccl_plan *plan, const fusco_nccl_call *id, const Call *given,
                      const char *name, fusco_nccl_report *report, const fusco_nccl_peers *peers,
                      fusco_error *error) {
  return call(groupOf(plan), true, error, [&] {
    auto measured = fusco_sized<fusco_nccl_report>();
    fusco_nccl_peers arrays{};
    if (peers != nullptr) arrays = fusco::structFrom(peers, "fusco_nccl_peers");
    const fusco_nccl_call identity = callFrom(id);
    const fusco::CallFrom<Call> from(given, name);
    if (plan->buffered != nullptr) {
      plan->buffered->prepare(identity, measured);
      plan->buffered->fit(from.call);
    }
    const std::shared_ptr<Plan> &along = plan->buffered == nullptr ? plan->shared : plan->buffered->plan();
    if (along == nullptr) {
      plan->buffered->runAlone(from.call, measured);
    } else {
      run(*along, identity, from.call, measured, peers == nullptr ? nullptr : &arrays);
    }
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
    shared.gatherOnHost(local, all, bytes, "gathering");
  });
}

fusco_status fusco_nccl_plan_create(fusco_nccl_group *group, const fusco_nccl_call *id,
                                    const fusco_nccl_plan_desc *desc, fusco_nccl_plan **plan,
                                    fusco_error *error) {
  return call(groupOf(group), plan != nullptr, error, [&] {
    const auto from = fusco::structFrom(desc, "fusco_nccl_plan_desc");
    *plan = new fusco_nccl_plan{std::make_shared<Plan>(group->shared, callFrom(id), from), nullptr};
  });
}

void fusco_nccl_plan_destroy(fusco_nccl_plan *plan) { delete plan; }

fusco_status fusco_nccl_plan_bytes(const fusco_nccl_plan *plan, uint64_t row_bytes, fusco_nccl_bytes *bytes,
                                   fusco_error *error) {
  return guarded(error, [&] {
    checkGiven(plan != nullptr && bytes != nullptr);
    const auto found =
        plan->buffered == nullptr ? plan->shared->bytes(row_bytes) : plan->buffered->bytes(row_bytes);
    fusco::structTo(bytes, found, "fusco_nccl_bytes");
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
