// The C interface of a build without CUDA: no device, and so no handle.

#include "fusco_cuda_bench.h"
#include "guard.hpp"

namespace {

fusco_status absent(fusco_error *error) {
  return fusco::report(fusco::Failure(FUSCO_E_BACKEND, "this build has no CUDA: nvcc was not found"), error);
}

}  // namespace

extern "C" {

int fusco_cuda_built(void) { return 0; }

fusco_status fusco_cuda_device_count(uint32_t *, fusco_error *error) { return absent(error); }

fusco_status fusco_cuda_device(uint32_t, fusco_cuda_device_info *, fusco_error *error) {
  return absent(error);
}

fusco_status fusco_cuda_context_create(uint32_t, const uint32_t *, fusco_cuda_context **,
                                       fusco_error *error) {
  return absent(error);
}

void fusco_cuda_context_destroy(fusco_cuda_context *) {}

uint32_t fusco_cuda_ranks(const fusco_cuda_context *) { return 0; }

uint32_t fusco_cuda_rank_device(const fusco_cuda_context *, uint32_t) { return 0; }

fusco_status fusco_cuda_set_stream(fusco_cuda_context *, uint32_t, void *, fusco_error *error) {
  return absent(error);
}

fusco_status fusco_cuda_limit_multiprocessors(fusco_cuda_context *, uint32_t, fusco_error *error) {
  return absent(error);
}

void *fusco_cuda_stream(const fusco_cuda_context *, uint32_t) { return nullptr; }

fusco_status fusco_cuda_alloc(fusco_cuda_context *, uint32_t, uint64_t, void **, fusco_error *error) {
  return absent(error);
}

fusco_status fusco_cuda_free(fusco_cuda_context *, void *, fusco_error *error) { return absent(error); }

fusco_status fusco_cuda_copy(fusco_cuda_context *, uint32_t, void *, const void *, uint64_t,
                             fusco_error *error) {
  return absent(error);
}

fusco_status fusco_cuda_fill(fusco_cuda_context *, uint32_t, void *, uint8_t, uint64_t, fusco_error *error) {
  return absent(error);
}

fusco_status fusco_cuda_spin(fusco_cuda_context *, uint32_t, uint64_t, fusco_error *error) {
  return absent(error);
}

fusco_status fusco_cuda_synchronize(fusco_cuda_context *, fusco_error *error) { return absent(error); }

fusco_status fusco_cuda_event_create(fusco_cuda_context *, uint32_t, fusco_cuda_event **,
                                     fusco_error *error) {
  return absent(error);
}

void fusco_cuda_event_destroy(fusco_cuda_event *) {}

fusco_status fusco_cuda_event_record(fusco_cuda_event *, fusco_error *error) { return absent(error); }

fusco_status fusco_cuda_event_wait(fusco_cuda_event *, uint32_t, fusco_error *error) { return absent(error); }

fusco_status fusco_cuda_event_query(fusco_cuda_event *, int *, fusco_error *error) { return absent(error); }

fusco_status fusco_cuda_event_synchronize(fusco_cuda_event *, fusco_error *error) { return absent(error); }

fusco_status fusco_cuda_event_elapsed(fusco_cuda_event *, fusco_cuda_event *, double *, fusco_error *error) {
  return absent(error);
}

fusco_status fusco_cuda_plan_create(fusco_cuda_context *, const fusco_cuda_capacity *,
                                    const fusco_cuda_plan_desc *, fusco_cuda_plan **, fusco_error *error) {
  return absent(error);
}

fusco_status fusco_cuda_plan_upload(fusco_cuda_plan *, const fusco_cuda_plan_desc *, fusco_error *error) {
  return absent(error);
}

void fusco_cuda_plan_destroy(fusco_cuda_plan *) {}

uint64_t fusco_cuda_plan_bytes(const fusco_cuda_plan *) { return 0; }

fusco_status fusco_cuda_dispatch(fusco_cuda_plan *, fusco_cuda_path, const fusco_dispatch_call *,
                                 fusco_cuda_report *, fusco_error *error) {
  return absent(error);
}

fusco_status fusco_cuda_combine(fusco_cuda_plan *, const fusco_combine_call *, fusco_cuda_report *,
                                fusco_error *error) {
  return absent(error);
}

fusco_status fusco_cuda_weight_gradient(fusco_cuda_plan *, const fusco_weight_gradient_call *,
                                        fusco_cuda_report *, fusco_error *error) {
  return absent(error);
}

fusco_status fusco_cuda_fp8_quantize(fusco_cuda_context *, uint32_t, const fusco_fp8_call *,
                                     fusco_error *error) {
  return absent(error);
}

fusco_status fusco_cuda_fp8_dequantize(fusco_cuda_context *, uint32_t, const fusco_fp8_call *,
                                       fusco_error *error) {
  return absent(error);
}

fusco_status fusco_cuda_gate(fusco_cuda_context *, uint32_t, const fusco_gate_call *, fusco_error *error) {
  return absent(error);
}

fusco_status fusco_cuda_gate_backward(fusco_cuda_context *, uint32_t, const fusco_gate_backward_call *,
                                      fusco_error *error) {
  return absent(error);
}

fusco_status fusco_cuda_capture_begin(fusco_cuda_context *, fusco_error *error) { return absent(error); }

fusco_status fusco_cuda_capture_end(fusco_cuda_context *, fusco_cuda_graph **, fusco_error *error) {
  return absent(error);
}

fusco_status fusco_cuda_graph_launch(fusco_cuda_graph *, fusco_error *error) { return absent(error); }

void fusco_cuda_graph_destroy(fusco_cuda_graph *) {}

fusco_status fusco_cuda_unfused_create(fusco_cuda_plan *, uint64_t, fusco_cuda_unfused **,
                                       fusco_error *error) {
  return absent(error);
}

void fusco_cuda_unfused_destroy(fusco_cuda_unfused *) {}

fusco_status fusco_cuda_unfused_dispatch(fusco_cuda_unfused *, const fusco_buffer *, const fusco_buffer *,
                                         fusco_error *error) {
  return absent(error);
}

fusco_status fusco_cuda_unfused_combine(fusco_cuda_unfused *, const fusco_combine_call *,
                                        fusco_error *error) {
  return absent(error);
}

}  // extern "C"
