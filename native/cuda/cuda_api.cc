// The C interface of the CUDA part: takes turns, turns failures into statuses, and nothing else.

#include "clock.hpp"
#include "cuda_exchange.hpp"
#include "cuda_graph.hpp"
#include "cuda_rows.hpp"
#include "cuda_turn.hpp"
#include "structs.hpp"

namespace {

using fusco::Failure;
using fusco::guarded;
using fusco::cuda::CudaContext;
using fusco::cuda::DevicePlan;
using fusco::cuda::Event;
using fusco::cuda::Graph;
using fusco::cuda::inTurn;
using fusco::cuda::UploadedPlan;

// Like inTurn, timed, for an exchange of a plan; what is captured is kept for the graph.
template <class Call, class F>
fusco_status exchange(fusco_cuda_plan *plan, const Call *given, const char *name, fusco_cuda_report *report,
                      fusco_error *error, F run) {
  return inTurn(plan, error, [&](CudaContext &context) {
    const fusco::CallFrom<Call> from(given, name);
    auto measured = fusco_sized<fusco_cuda_report>();
    const uint64_t start = fusco::steadyNs();
    plan->shared->fit(from.call);
    run(*plan->shared, from.call, measured);
    measured.stats.nanoseconds = fusco::steadyNs() - start;
    if (context.capturing != nullptr) context.capturing->add(plan->shared, from.call);
    fusco::structTo(report, measured, "fusco_cuda_report");
  });
}

template <class Call>
fusco_status rowWork(fusco_cuda_context *context, uint32_t rank, const Call *call, const char *name,
                     fusco_error *error, void (*run)(CudaContext &, uint32_t, const Call &)) {
  return inTurn(context, error,
                [&](CudaContext &c) { run(c, rank, fusco::CallFrom<Call>(call, name).call); });
}

}  // namespace

extern "C" {

int fusco_cuda_built(void) { return 1; }

fusco_status fusco_cuda_device_count(uint32_t *count, fusco_error *error) {
  return guarded(error, [&] {
    if (count == nullptr) throw Failure(FUSCO_E_OPTION, "count is NULL");
    *count = fusco::cuda::deviceCount();
  });
}

fusco_status fusco_cuda_device(uint32_t device, fusco_cuda_device_info *info, fusco_error *error) {
  return guarded(error, [&] {
    if (info == nullptr) throw Failure(FUSCO_E_OPTION, "info is NULL");
    const uint32_t count = fusco::cuda::deviceCount();
    if (device >= count)
      throw Failure(FUSCO_E_OPTION, "device %u of %u", device, count).limited(device, count);
    const fusco::cuda::OnDevice here(device);
    cudaDeviceProp properties{};
    size_t free = 0;
    size_t total = 0;
    int driver = 0;
    if (cudaGetDeviceProperties(&properties, static_cast<int>(device)) != cudaSuccess ||
        cudaMemGetInfo(&free, &total) != cudaSuccess || cudaDriverGetVersion(&driver) != cudaSuccess) {
      throw Failure(FUSCO_E_BACKEND, "device %u: %s", device, cudaGetErrorString(cudaGetLastError()));
    }
    auto found = fusco_sized<fusco_cuda_device_info>();
    std::snprintf(found.name, sizeof found.name, "%.127s", properties.name);
    found.total_bytes = total;
    found.free_bytes = free;
    found.sms = static_cast<uint32_t>(properties.multiProcessorCount);
    found.compute_major = static_cast<uint32_t>(properties.major);
    found.compute_minor = static_cast<uint32_t>(properties.minor);
    found.driver = static_cast<uint32_t>(driver);
    found.runtime = CUDART_VERSION;
    fusco::structTo(info, found, "fusco_cuda_device_info");
  });
}

fusco_status fusco_cuda_context_create(uint32_t ranks, const uint32_t *devices, fusco_cuda_context **context,
                                       fusco_error *error) {
  return guarded(error, [&] {
    if (context == nullptr) throw Failure(FUSCO_E_OPTION, "context is NULL");
    *context = new fusco_cuda_context{std::make_shared<CudaContext>(ranks, devices)};
  });
}

void fusco_cuda_context_destroy(fusco_cuda_context *context) { delete context; }

uint32_t fusco_cuda_ranks(const fusco_cuda_context *context) {
  return context == nullptr ? 0 : context->shared->ranks();
}

uint32_t fusco_cuda_rank_device(const fusco_cuda_context *context, uint32_t rank) {
  return rank < fusco_cuda_ranks(context) ? context->shared->deviceOf(rank) : 0;
}

fusco_status fusco_cuda_set_stream(fusco_cuda_context *context, uint32_t rank, void *stream,
                                   fusco_error *error) {
  return inTurn(context, error,
                [&](CudaContext &c) { c.setStream(rank, static_cast<cudaStream_t>(stream)); });
}

fusco_status fusco_cuda_limit_sms(fusco_cuda_context *context, uint32_t count, fusco_error *error) {
  return inTurn(context, error, [&](CudaContext &shared) { shared.limitSms(count); });
}

void *fusco_cuda_stream(const fusco_cuda_context *context, uint32_t rank) {
  return rank < fusco_cuda_ranks(context) ? context->shared->stream(rank) : nullptr;
}

fusco_status fusco_cuda_check(fusco_cuda_context *context, fusco_error *error) {
  return inTurn(context, error, [](CudaContext &shared) { shared.checkAlive(); });
}

fusco_status fusco_cuda_alloc(fusco_cuda_context *context, uint32_t rank, uint64_t bytes, void **address,
                              fusco_error *error) {
  return inTurn(context, address != nullptr, error, [&](CudaContext &c) { *address = c.alloc(rank, bytes); });
}

fusco_status fusco_cuda_free(fusco_cuda_context *context, void *address, fusco_error *error) {
  return inTurn(context, error, [&](CudaContext &c) { c.free(address); });
}

fusco_status fusco_cuda_copy(fusco_cuda_context *context, uint32_t rank, void *to, const void *from,
                             uint64_t bytes, fusco_error *error) {
  return inTurn(context, bytes == 0 || (to != nullptr && from != nullptr), error, [&](CudaContext &c) {
    c.checkRank(rank);
    if (bytes == 0) return;
    c.check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, c.stream(rank)), "copying");
  });
}

fusco_status fusco_cuda_fill(fusco_cuda_context *context, uint32_t rank, void *to, uint8_t value,
                             uint64_t bytes, fusco_error *error) {
  return inTurn(context, bytes == 0 || to != nullptr, error, [&](CudaContext &c) {
    c.checkRank(rank);
    if (bytes > 0) c.check(cudaMemsetAsync(to, value, bytes, c.stream(rank)), "filling");
  });
}

fusco_status fusco_cuda_clear_rows(fusco_cuda_context *context, uint32_t rank, const fusco_buffer *rows,
                                   uint64_t row_bytes, const uint32_t *first, fusco_error *error) {
  return inTurn(context, rows != nullptr && first != nullptr, error,
                [&](CudaContext &c) { fusco::cuda::clearRows(c, rank, *rows, row_bytes, first); });
}

fusco_status fusco_cuda_synchronize(fusco_cuda_context *context, fusco_error *error) {
  return inTurn(context, error, [&](CudaContext &c) { c.synchronize(); });
}

fusco_status fusco_cuda_event_create(fusco_cuda_context *context, uint32_t rank, fusco_cuda_event **event,
                                     fusco_error *error) {
  return inTurn(context, event != nullptr, error, [&](CudaContext &c) {
    c.checkRank(rank);
    std::unique_ptr<fusco_cuda_event> made(new fusco_cuda_event{context->shared, rank, {}});
    made->event.create(c.deviceOf(rank), fusco::cuda::Timing::on);
    *event = made.release();
  });
}

void fusco_cuda_event_destroy(fusco_cuda_event *event) { delete event; }

fusco_status fusco_cuda_event_record(fusco_cuda_event *event, fusco_error *error) {
  return inTurn(event, error, [&](CudaContext &c) {
    c.check(cudaEventRecord(event->event.get(), c.stream(event->rank)), "recording an event");
  });
}

fusco_status fusco_cuda_event_wait(fusco_cuda_event *event, uint32_t rank, fusco_error *error) {
  return inTurn(event, error, [&](CudaContext &c) {
    c.checkRank(rank);
    c.check(cudaStreamWaitEvent(c.stream(rank), event->event.get(), 0), "waiting for an event");
  });
}

fusco_status fusco_cuda_event_query(fusco_cuda_event *event, int *done, fusco_error *error) {
  return inTurn(event, done != nullptr, error, [&](CudaContext &c) {
    const cudaError_t found = cudaEventQuery(event->event.get());
    if (found == cudaErrorNotReady)
      (void)cudaGetLastError();
    else
      c.check(found, "asking for an event");
    *done = found == cudaSuccess ? 1 : 0;
  });
}

fusco_status fusco_cuda_event_synchronize(fusco_cuda_event *event, fusco_error *error) {
  return inTurn(event, error, [&](CudaContext &c) {
    c.check(cudaEventSynchronize(event->event.get()), "waiting for an event");
  });
}

fusco_status fusco_cuda_event_elapsed(fusco_cuda_event *start, fusco_cuda_event *end, double *milliseconds,
                                      fusco_error *error) {
  return inTurn(start, end != nullptr && milliseconds != nullptr, error, [&](CudaContext &c) {
    float taken = 0;
    c.check(cudaEventElapsedTime(&taken, start->event.get(), end->event.get()),
            "the time between two events");
    *milliseconds = taken;
  });
}

fusco_status fusco_cuda_plan_create(fusco_cuda_context *context, const fusco_cuda_capacity *capacity,
                                    const fusco_plan_desc *desc, fusco_cuda_plan **plan, fusco_error *error) {
  return inTurn(context, plan != nullptr, error, [&](CudaContext &) {
    const fusco_plan_desc from = fusco::structFrom(desc, "fusco_plan_desc");
    fusco_cuda_capacity sizes{};
    if (capacity != nullptr) sizes = fusco::structFrom(capacity, "fusco_cuda_capacity");
    auto made = std::make_shared<UploadedPlan>(context->shared, sizes, from);
    UploadedPlan *uploaded = made.get();
    *plan = new fusco_cuda_plan{std::move(made), uploaded, nullptr};
  });
}

fusco_status fusco_cuda_plan_upload(fusco_cuda_plan *plan, const fusco_plan_desc *desc, fusco_error *error) {
  return inTurn(plan, error, [&](CudaContext &) {
    if (plan->uploaded == nullptr) {
      throw Failure(FUSCO_E_OPTION, "the plan is in plan buffers: plan again instead of uploading another");
    }
    plan->uploaded->upload(fusco::structFrom(desc, "fusco_plan_desc"));
  });
}

void fusco_cuda_plan_destroy(fusco_cuda_plan *plan) { delete plan; }

uint64_t fusco_cuda_plan_bytes(const fusco_cuda_plan *plan) {
  return plan == nullptr ? 0 : plan->shared->bytes();
}

fusco_status fusco_cuda_dispatch(fusco_cuda_plan *plan, fusco_cuda_path path, const fusco_dispatch_call *call,
                                 fusco_cuda_report *report, fusco_error *error) {
  const auto run = [path](DevicePlan &device, const fusco_dispatch_call &checked, fusco_cuda_report &out) {
    fusco::cuda::dispatch(device, path, checked, out);
  };
  return exchange(plan, call, "fusco_dispatch_call", report, error, run);
}

fusco_status fusco_cuda_combine(fusco_cuda_plan *plan, const fusco_combine_call *call,
                                fusco_cuda_report *report, fusco_error *error) {
  return exchange(plan, call, "fusco_combine_call", report, error, fusco::cuda::combine);
}

fusco_status fusco_cuda_weight_gradient(fusco_cuda_plan *plan, const fusco_weight_gradient_call *call,
                                        fusco_cuda_report *report, fusco_error *error) {
  return exchange(plan, call, "fusco_weight_gradient_call", report, error, fusco::cuda::weightGradient);
}

fusco_status fusco_cuda_combine_gradient(fusco_cuda_plan *plan, const fusco_combine_gradient_call *call,
                                         fusco_cuda_report *report, fusco_error *error) {
  return exchange(plan, call, "fusco_combine_gradient_call", report, error, fusco::cuda::combineGradient);
}

fusco_status fusco_cuda_fp8_quantize(fusco_cuda_context *context, uint32_t rank, const fusco_fp8_call *call,
                                     fusco_error *error) {
  return rowWork(context, rank, call, "fusco_fp8_call", error, fusco::cuda::quantize);
}

fusco_status fusco_cuda_fp8_dequantize(fusco_cuda_context *context, uint32_t rank, const fusco_fp8_call *call,
                                       fusco_error *error) {
  return rowWork(context, rank, call, "fusco_fp8_call", error, fusco::cuda::dequantize);
}

fusco_status fusco_cuda_gate(fusco_cuda_context *context, uint32_t rank, const fusco_gate_call *call,
                             fusco_error *error) {
  return rowWork(context, rank, call, "fusco_gate_call", error, fusco::cuda::gate);
}

fusco_status fusco_cuda_gate_backward(fusco_cuda_context *context, uint32_t rank,
                                      const fusco_gate_backward_call *call, fusco_error *error) {
  return rowWork(context, rank, call, "fusco_gate_backward_call", error, fusco::cuda::gateBackward);
}

fusco_status fusco_cuda_capture_begin(fusco_cuda_context *context, fusco_error *error) {
  return inTurn(context, error, [&](CudaContext &c) {
    if (c.capturing != nullptr) throw Failure(FUSCO_E_OPTION, "a capture is under way");
    c.capturing = Graph::begin(context->shared).release();
  });
}

fusco_status fusco_cuda_capture_end(fusco_cuda_context *context, fusco_cuda_graph **graph,
                                    fusco_error *error) {
  // A capture that did not end would keep the stream from everything else.
  return fusco::cuda::evenIfFailed(context, graph != nullptr, error, [&](CudaContext &c) {
    if (c.capturing == nullptr) throw Failure(FUSCO_E_OPTION, "no capture is under way");
    std::unique_ptr<Graph> captured(c.capturing);
    c.capturing = nullptr;
    captured->end();
    c.checkAlive();
    *graph = new fusco_cuda_graph{std::move(captured), context->shared};
  });
}

fusco_status fusco_cuda_graph_launch(fusco_cuda_graph *graph, fusco_error *error) {
  return inTurn(graph, error, [&](CudaContext &) { graph->graph->launch(); });
}

void fusco_cuda_graph_destroy(fusco_cuda_graph *graph) { delete graph; }

}  // extern "C"
