// The C interface: turns failures into statuses, and gives a group up when one of its calls has failed after
// it began.

#include <cstring>

#include "guard.hpp"
#include "nccl_exchange.hpp"

namespace {

using fusco::Failure;
using fusco::guarded;
using fusco::nccl::Group;
using fusco::nccl::Plan;

// A call that is refused before it is entered leaves the group as it is. After that peers may be
// waiting for this rank.
template <class F>
fusco_status call(Group &group, fusco_error *error, F work) {
  return guarded(error, [&] {
    const fusco::cuda::OnDevice here(group.device());
    group.leave();
    try {
      work();
    } catch (const Failure &failure) {
      if (group.hasEntered()) group.fail(failure);
      throw;
    }
    group.leave();
  });
}

void checkGiven(bool given) {
  if (!given) throw Failure(FUSCO_E_OPTION, "a handle or an argument is NULL");
}

template <class F>
fusco_status exchange(fusco_nccl_plan *plan, const fusco_nccl_step *step, bool given,
                      fusco_nccl_report *report, fusco_error *error, F run) {
  if (plan == nullptr || step == nullptr || !given) {
    return guarded(error, [] { checkGiven(false); });
  }
  return call(plan->shared->group(), error, [&] {
    fusco_nccl_report measured{};
    run(*plan->shared, measured);
    if (report != nullptr) *report = measured;
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
    checkGiven(desc != nullptr && group != nullptr);
    *group = new fusco_nccl_group{std::make_shared<Group>(*desc)};
  });
}

void fusco_nccl_abort(fusco_nccl_group *group, const char *why) {
  if (group != nullptr) group->shared->abort(why);
}

void fusco_nccl_group_destroy(fusco_nccl_group *group) { delete group; }

fusco_status fusco_nccl_all_gather(fusco_nccl_group *group, const fusco_nccl_step *step, const void *own,
                                   void *all, uint64_t bytes, fusco_error *error) {
  if (group == nullptr || step == nullptr || own == nullptr || all == nullptr || bytes > (64u << 20)) {
    return guarded(error, [&] {
      checkGiven(group != nullptr && step != nullptr && own != nullptr && all != nullptr);
      throw Failure(FUSCO_E_LIMIT, "%llu bytes to gather", static_cast<unsigned long long>(bytes))
          .limited(bytes, 64u << 20);
    });
  }
  return call(*group->shared, error, [&] {
    Group &shared = *group->shared;
    shared.enter(*step);
    if (bytes == 0) return;
    const uint64_t ranks = shared.neighbors().ranks;
    uint8_t *memory = shared.arena(fusco::nccl::Use::gathered).atLeast((ranks + 1) * bytes);
    fusco::cuda::Event done;
    done.create(shared.device(), fusco::cuda::Timing::off);
    shared.must(cudaMemcpyAsync(memory, own, bytes, cudaMemcpyHostToDevice, shared.wireStream()),
                "gathering");
    shared.allGather(memory, memory + bytes, bytes);
    shared.must(
        cudaMemcpyAsync(all, memory + bytes, ranks * bytes, cudaMemcpyDeviceToHost, shared.wireStream()),
        "gathering");
    shared.record(done, shared.wireStream());
    shared.waitFor(done.get(), "gathering");
  });
}

fusco_status fusco_nccl_plan_create(fusco_nccl_group *group, const fusco_nccl_step *step,
                                    const fusco_nccl_plan_desc *desc, fusco_nccl_plan **plan,
                                    fusco_error *error) {
  if (group == nullptr || step == nullptr || desc == nullptr || plan == nullptr) {
    return guarded(error, [] { checkGiven(false); });
  }
  return call(*group->shared, error,
              [&] { *plan = new fusco_nccl_plan{std::make_shared<Plan>(group->shared, *step, *desc)}; });
}

void fusco_nccl_plan_destroy(fusco_nccl_plan *plan) { delete plan; }

fusco_nccl_bytes fusco_nccl_plan_bytes(const fusco_nccl_plan *plan, uint64_t row_bytes) {
  return plan == nullptr ? fusco_nccl_bytes{} : plan->shared->bytes(row_bytes);
}

fusco_status fusco_nccl_dispatch(fusco_nccl_plan *plan, const fusco_nccl_step *step,
                                 const fusco_dispatch_call *call, fusco_nccl_report *report,
                                 const fusco_nccl_peers *peers, fusco_error *error) {
  return exchange(plan, step, call != nullptr, report, error, [&](Plan &shared, fusco_nccl_report &measured) {
    fusco::nccl::dispatch(shared, *step, *call, measured, peers);
  });
}

fusco_status fusco_nccl_combine(fusco_nccl_plan *plan, const fusco_nccl_step *step,
                                const fusco_combine_call *call, fusco_nccl_report *report,
                                const fusco_nccl_peers *peers, fusco_error *error) {
  return exchange(plan, step, call != nullptr, report, error, [&](Plan &shared, fusco_nccl_report &measured) {
    fusco::nccl::combine(shared, *step, *call, measured, peers);
  });
}

fusco_status fusco_nccl_weight_gradient(fusco_nccl_plan *plan, const fusco_nccl_step *step,
                                        const fusco_weight_gradient_call *call, fusco_nccl_report *report,
                                        const fusco_nccl_peers *peers, fusco_error *error) {
  return exchange(plan, step, call != nullptr, report, error, [&](Plan &shared, fusco_nccl_report &measured) {
    fusco::nccl::weightGradient(shared, *step, *call, measured, peers);
  });
}

}  // extern "C"
