// The C interface of a build without CUDA: NCCL can be found, but there is nothing to run it on.

#include "fusco_nccl_bench.h"
#include "guard.hpp"
#include "nccl_library.hpp"

namespace {

fusco_status absent(fusco_error *error) {
  return fusco::report(fusco::Failure(FUSCO_E_BACKEND, "this build has no CUDA: nvcc was not found"), error);
}

}  // namespace

extern "C" {

fusco_status fusco_nccl_open(const char *path, fusco_nccl_library *library, fusco_error *error) {
  return fusco::guarded(error, [&] {
    const fusco::nccl::Library &found = fusco::nccl::openLibrary(path);
    *library = {};
    std::snprintf(library->path, sizeof library->path, "%s", found.path.c_str());
    library->version = static_cast<uint32_t>(found.version);
  });
}

fusco_status fusco_nccl_unique_id(uint8_t *, fusco_error *error) { return absent(error); }

fusco_status fusco_nccl_group_create(const fusco_nccl_group_desc *, fusco_nccl_group **, fusco_error *error) {
  return absent(error);
}

void fusco_nccl_abort(fusco_nccl_group *, const char *) {}

void fusco_nccl_group_destroy(fusco_nccl_group *) {}

fusco_status fusco_nccl_all_gather(fusco_nccl_group *, const fusco_nccl_step *, const void *, void *,
                                   uint64_t, fusco_error *error) {
  return absent(error);
}

fusco_status fusco_nccl_plan_create(fusco_nccl_group *, const fusco_nccl_step *, const fusco_nccl_plan_desc *,
                                    fusco_nccl_plan **, fusco_error *error) {
  return absent(error);
}

void fusco_nccl_plan_destroy(fusco_nccl_plan *) {}

fusco_nccl_bytes fusco_nccl_plan_bytes(const fusco_nccl_plan *, uint64_t) { return {}; }

fusco_status fusco_nccl_dispatch(fusco_nccl_plan *, const fusco_nccl_step *, const fusco_dispatch_call *,
                                 fusco_nccl_report *, const fusco_nccl_peers *, fusco_error *error) {
  return absent(error);
}

fusco_status fusco_nccl_combine(fusco_nccl_plan *, const fusco_nccl_step *, const fusco_combine_call *,
                                fusco_nccl_report *, const fusco_nccl_peers *, fusco_error *error) {
  return absent(error);
}

fusco_status fusco_nccl_weight_gradient(fusco_nccl_plan *, const fusco_nccl_step *,
                                        const fusco_weight_gradient_call *, fusco_nccl_report *,
                                        const fusco_nccl_peers *, fusco_error *error) {
  return absent(error);
}

fusco_status fusco_nccl_unfused_create(fusco_nccl_plan *, uint64_t, fusco_nccl_unfused **,
                                       fusco_error *error) {
  return absent(error);
}

void fusco_nccl_unfused_destroy(fusco_nccl_unfused *) {}

fusco_status fusco_nccl_unfused_dispatch(fusco_nccl_unfused *, const fusco_nccl_step *, const fusco_buffer *,
                                         const fusco_buffer *, fusco_stats *, fusco_error *error) {
  return absent(error);
}

fusco_status fusco_nccl_unfused_combine(fusco_nccl_unfused *, const fusco_nccl_step *,
                                        const fusco_combine_call *, fusco_stats *, fusco_error *error) {
  return absent(error);
}

}  // extern "C"
