// The addon of a checkout's benches: everything that the published addon exports, and what follows. It is not
// published; executor/native/benchTypes.ts types it.

#include "../exports.hpp"
#include "cuda_unfused.hpp"
#include "nccl_unfused.hpp"
#include "unfused.hpp"

namespace fusco_node {

namespace {

constexpr uint64_t maxCopyBytes = uint64_t{1} << 47;
constexpr uint32_t maxRuns = 1u << 20;

// (context, variant, bytes, runs) -> nanoseconds
Napi::Value benchCopy(const Napi::CallbackInfo &info) {
  const auto variant = choiceOf<fusco_copy_variant>(
      info[1], "variant",
      {{"memcpy", FUSCO_COPY_MEMCPY}, {"nonTemporal", FUSCO_COPY_NON_TEMPORAL}, {"fill", FUSCO_COPY_FILL}});
  const uint64_t bytes = integerOf(info[2], "bytes", maxCopyBytes);
  const auto runs = static_cast<uint32_t>(integerOf(info[3], "runs", maxRuns));
  uint64_t best = 0;
  run(info.Env(), fusco_bench_copy, Context::nativeOf(info[0]), variant, bytes, runs, &best);
  return valueFor(info.Env(), best);
}

// (instances, instanceCount, unrolled, runs) -> nanoseconds
Napi::Value benchSlots(const Napi::CallbackInfo &info) {
  Napi::Array keep = Napi::Array::New(info.Env());
  const fusco_buffer entries = memoryOf(info[0], "instances", 0, keep);
  const auto count = static_cast<uint32_t>(integerOf(info[1], "instanceCount", UINT16_MAX));
  const int unrolled = booleanOf(info[2], "unrolled") ? 1 : 0;
  const auto runs = static_cast<uint32_t>(integerOf(info[3], "runs", maxRuns));
  uint64_t best = 0;
  const auto *first = static_cast<const uint16_t *>(entries.data);
  run(info.Env(), fusco_bench_slots, first, entries.bytes / 2, count, unrolled, runs, &best);
  return valueFor(info.Env(), best);
}

void describeBench(Napi::Env env, Exports &exports) {
  exports.add(Members<Unfused>(env, 2)
                  .call<fusco_unfused_dispatch>("dispatchSync")
                  .call<fusco_unfused_combine>("combineSync")
                  .method("close", &Unfused::close, 0));
  exports.add(Members<CudaUnfused>(env, 2)
                  .call<fusco_cuda_unfused_dispatch>("dispatch")
                  .call<fusco_cuda_unfused_combine>("combine")
                  .method("close", &CudaUnfused::close, 0));
  exports.add(Members<NcclUnfused>(env, 2)
                  .method("dispatch", &NcclUnfused::dispatch, 3)
                  .method("combine", &NcclUnfused::combine, 3)
                  .method("close", &NcclUnfused::close, 0));
  exports.function("benchCopy", benchCopy, 4)
      .function("benchSlots", benchSlots, 4)
      .call<fusco_cuda_spin>("cudaSpin")
      .call<fusco_cuda_occupy>("cudaOccupy")
      .call<fusco_cuda_small_plans>("cudaSmallPlans");
}

}  // namespace

}  // namespace fusco_node

namespace {

Napi::Object start(Napi::Env env, Napi::Object target) {
  fusco_node::Exports exports(target);
  fusco_node::describe(env, exports);
  fusco_node::describeBench(env, exports);
  return target;
}

}  // namespace

NODE_API_MODULE(fusco_bench, start)
