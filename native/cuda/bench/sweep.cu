// Measures every sensible tiling of the dispatch kernel and block size of the combine kernel on one GPU,
// checks every result, and prints a table: the figures behind chooseTiling() and docs/performance-cuda.md.
//
//   sweep [tokens a rank] [ranks] [hidden] [topk] [experts] [quick]

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "../element_device.cuh"
#include "../exchange_launch.hpp"

using namespace fusco::cuda;
using fusco::Place;
using fusco::Tree;

namespace {

void must(cudaError_t error, const char *what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}

template <class T>
T *onDevice(size_t count) {
  void *at = nullptr;
  must(cudaMalloc(&at, std::max<size_t>(count * sizeof(T), 1)), "cudaMalloc");
  return static_cast<T *>(at);
}

template <class T>
T *copied(const std::vector<T> &values) {
  T *at = onDevice<T>(values.size());
  must(cudaMemcpy(at, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice), "cudaMemcpy");
  return at;
}

__global__ void randomBf16(uint16_t *out, size_t count) {
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < count;
       i += gridDim.x * size_t{blockDim.x}) {
    uint64_t x = (i + 1) * 0x9e3779b97f4a7c15ull;
    x ^= x >> 31;
    x *= 0xbf58476d1ce4e5b9ull;
    x ^= x >> 29;
    // Sign, an exponent around 1 and seven bits of fraction.
    out[i] = static_cast<uint16_t>((x & 0x807f) | ((120 + (x >> 20 & 7)) << 7));
  }
}

// Every element of every received row, one comparison each.
__global__ void checkDispatch(DispatchParams p, unsigned long long *wrong) {
  const DevicePlanHead *head = p.plan.head;
  const uint64_t entries = uint64_t{head->tokens} * head->topk;
  for (uint64_t entry = blockIdx.x; entry < entries; entry += gridDim.x) {
    const Place place = p.plan.place[entry];
    const uint32_t token = entry / head->topk;
    const uint32_t local = localOf(head, token);
    const uint64_t bytes = p.payload[0].rowBytes;
    const uint8_t *from = p.payload[0].from[local] + (token - head->tokenStart[local]) * bytes;
    const uint8_t *to = p.payload[0].to[place.peer] + place.row * bytes;
    for (uint64_t i = threadIdx.x; i < bytes / 16; i += blockDim.x) {
      const uint4 a = reinterpret_cast<const uint4 *>(from)[i];
      const uint4 b = reinterpret_cast<const uint4 *>(to)[i];
      if (a.x != b.x || a.y != b.y || a.z != b.z || a.w != b.w) atomicAdd(wrong, 1ull);
    }
  }
}

__global__ void checkCombine(CombineParams p, bool weighted, unsigned long long *wrong) {
  const DevicePlanHead *head = p.plan.head;
  const uint32_t token = blockIdx.x;
  const uint32_t local = localOf(head, token);
  const uint64_t row = token - head->tokenStart[local];
  for (uint64_t i = threadIdx.x; i < p.rowBytes / 2; i += blockDim.x) {
    float sum = 0.0f;
    for (uint32_t k = 0; k < head->topk; k++) {
      const Place place = p.plan.place[uint64_t{token} * head->topk + k];
      const auto *from = reinterpret_cast<const uint16_t *>(p.from[place.peer] + place.row * p.rowBytes);
      const float value = __uint_as_float(uint32_t{from[i]} << 16);
      const float weight = weighted ? p.weights[local][row * head->topk + k] : 1.0f;
      sum = __fadd_rn(sum, __fmul_rn(weight, value));
    }
    const uint32_t bits = __float_as_uint(sum);
    const auto expected = static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
    if (reinterpret_cast<const uint16_t *>(p.to[local] + row * p.rowBytes)[i] != expected)
      atomicAdd(wrong, 1ull);
  }
}

struct Workload {
  uint32_t ranks, tokens, hidden, topk, experts;
  DispatchParams dispatch{};
  CombineParams combine{};
  std::vector<uint64_t> recvBytes;
  uint64_t rowBytes() const { return hidden * 2ull; }
  double dispatchBytes() const { return double(ranks) * tokens * (topk + 1) * rowBytes(); }
};

// Uniform routing, slots in the order (expert, source rank, token, k).
void makeWorkload(Workload &w) {
  std::mt19937 random(7);
  const uint32_t all = w.ranks * w.tokens;
  std::vector<uint32_t> expert(uint64_t{all} * w.topk);
  std::vector<uint32_t> count(uint64_t{w.experts} * w.ranks, 0);
  std::vector<uint32_t> deck(w.experts);
  for (uint32_t e = 0; e < w.experts; e++) deck[e] = e;
  for (uint32_t t = 0; t < all; t++) {
    for (uint32_t k = 0; k < w.topk; k++) {
      std::swap(deck[k], deck[k + random() % (w.experts - k)]);
      expert[uint64_t{t} * w.topk + k] = deck[k];
      count[uint64_t{deck[k]} * w.ranks + t / w.tokens]++;
    }
  }
  std::vector<uint32_t> next(count.size());
  w.recvBytes.assign(w.ranks, 0);
  std::vector<uint32_t> rows(w.ranks, 0);
  for (uint32_t e = 0; e < w.experts; e++) {
    uint32_t &row = rows[uint64_t{e} * w.ranks / w.experts];
    for (uint32_t r = 0; r < w.ranks; r++) {
      next[uint64_t{e} * w.ranks + r] = row;
      row += count[uint64_t{e} * w.ranks + r];
    }
  }
  std::vector<Place> place(expert.size());
  for (uint64_t i = 0; i < expert.size(); i++) {
    const uint32_t e = expert[i];
    const uint32_t source = static_cast<uint32_t>(i / w.topk / w.tokens);
    place[i] = {e * w.ranks / w.experts, static_cast<int32_t>(next[uint64_t{e} * w.ranks + source]++)};
  }
  std::vector<DevicePlanHead> head(1);
  head[0].topk = w.topk;
  head[0].localRanks = w.ranks;
  head[0].tokens = all;
  head[0].ranksPerNode = w.ranks;
  for (uint32_t r = 0; r <= w.ranks; r++) {
    if (r < w.ranks) head[0].rankOf[r] = r;
    head[0].tokenStart[r] = r * w.tokens;
  }
  const DeviceTables view = {copied(head), copied(place), nullptr, nullptr, nullptr, nullptr, nullptr};
  w.dispatch.plan = view;
  w.dispatch.place = view.place;
  w.dispatch.leading = w.dispatch.payloads = 1;
  w.dispatch.chunkBytes[0] = chunkOf(w.rowBytes());
  w.dispatch.barrier = copied(std::vector<uint32_t>(2, 0));
  Payload &payload = w.dispatch.payload[0];
  payload.rowBytes = w.rowBytes();
  payload.unit = 16;
  w.combine.plan = view;
  w.combine.rowBytes = w.rowBytes();
  std::vector<float> weights(uint64_t{w.tokens} * w.topk);
  for (float &weight : weights) weight = static_cast<float>(random() % 1000) / 999.0f;
  for (uint32_t r = 0; r < w.ranks; r++) {
    const uint64_t elements = uint64_t{w.tokens} * w.hidden;
    auto *source = onDevice<uint16_t>(elements);
    randomBf16<<<2048, 256>>>(source, elements);
    payload.from[r] = reinterpret_cast<uint8_t *>(source);
    w.recvBytes[r] = rows[r] * w.rowBytes();
    payload.to[r] = onDevice<uint8_t>(w.recvBytes[r]);
    w.combine.from[r] = payload.to[r];
    w.combine.to[r] = onDevice<uint8_t>(uint64_t{w.tokens} * w.rowBytes());
    w.combine.weights[r] = copied(weights);
  }
}

struct Clock {
  cudaEvent_t start, stop;
  Clock() {
    cudaEventCreate(&start);
    cudaEventCreate(&stop);
  }
  template <class F>
  double median(int runs, F work) {
    std::vector<float> taken;
    for (int i = 0; i < runs + 2; i++) {
      cudaEventRecord(start);
      work();
      cudaEventRecord(stop);
      must(cudaEventSynchronize(stop), "kernel");
      float ms = 0;
      cudaEventElapsedTime(&ms, start, stop);
      if (i >= 2) taken.push_back(ms);
    }
    std::sort(taken.begin(), taken.end());
    return taken[taken.size() / 2];
  }
};

}  // namespace

int main(int argc, char **argv) {
  const auto arg = [&](int i, uint32_t fallback) {
    return argc > i ? static_cast<uint32_t>(std::atoi(argv[i])) : fallback;
  };
  Workload w{arg(2, 8), arg(1, 4096), arg(3, 7168), arg(4, 8), arg(5, 256)};
  const bool quick = argc > 6;
  cudaDeviceProp device{};
  must(cudaGetDeviceProperties(&device, 0), "device");
  const DeviceLimits limits = {static_cast<uint32_t>(device.multiProcessorCount),
                               static_cast<uint32_t>(device.sharedMemPerBlockOptin),
                               static_cast<uint32_t>(device.sharedMemPerMultiprocessor)};
  makeWorkload(w);
  must(cudaDeviceSynchronize(), "set-up");
  Clock clock;
  auto *wrong = onDevice<unsigned long long>(1);
  const auto wrongs = [&](auto launch) {
    unsigned long long found = 0;
    cudaMemset(wrong, 0, sizeof *wrong);
    launch();
    must(cudaMemcpy(&found, wrong, sizeof found, cudaMemcpyDeviceToHost), "check");
    return found;
  };

  uint64_t received = 0;
  for (const uint64_t bytes : w.recvBytes) received += bytes;
  auto *a = onDevice<uint8_t>(received);
  auto *b = onDevice<uint8_t>(received);
  cudaMemset(a, 1, received);
  const double copyMs = clock.median(20, [&] { cudaMemcpyAsync(b, a, received, cudaMemcpyDeviceToDevice); });
  const double copyRate = 2.0 * received / copyMs / 1e6;
  const double total = w.dispatchBytes();
  std::printf("# %u ranks x %u tokens, hidden %u, topk %u of %u; %u SMs\n", w.ranks, w.tokens, w.hidden,
              w.topk, w.experts, limits.sms);
  std::printf("copy %.4f ms %.0f GB/s\n", copyMs, copyRate);

  const auto run = [&](const char *name, const DispatchParams &params, int runs) {
    for (uint32_t r = 0; r < w.ranks; r++) cudaMemset(w.dispatch.payload[0].to[r], 0xa5, w.recvBytes[r]);
    const double ms = clock.median(runs, [&] { must(launchDispatch(params, limits, nullptr), "dispatch"); });
    const auto bad = wrongs([&] { checkDispatch<<<4096, 256>>>(params, wrong); });
    const Tiling &t = params.tiling;
    std::printf("dispatch %-6s rows %2u blocks %2u meet %u groups %u: %.4f ms %.0f GB/s %.1f %%%s\n", name,
                t.rows, t.blocksPerSm, t.syncBlocks, t.groups, ms, total / ms / 1e6,
                total / ms / 1e4 / copyRate, bad == 0 ? "" : "  WRONG");
  };
  DispatchParams plain = w.dispatch;
  plain.leading = 0;
  run("plain", plain, 10);

  struct Shape {
    uint32_t rows, blocks;
  };
  const int runs = quick ? 5 : 15;
  std::vector<Tiling> tilings;
  for (const Shape s : {Shape{15, 1}, Shape{7, 2}, Shape{6, 2}, Shape{5, 3}, Shape{4, 3}, Shape{3, 4},
                        Shape{2, 6}, Shape{1, 10}}) {
    tilings.push_back({s.rows, s.blocks, 0, 1});
    for (uint32_t groups = 1; groups <= 4; groups++) tilings.push_back({s.rows, s.blocks, 1, groups});
  }
  for (const Tiling &tiling : tilings) {
    if (!tilingFits(limits, tiling, w.topk, w.dispatch.chunkBytes[0])) {
      std::printf("dispatch rows %u blocks %u does not fit\n", tiling.rows, tiling.blocksPerSm);
      continue;
    }
    DispatchParams params = w.dispatch;
    params.tiling = tiling;
    run("tiles", params, runs);
  }
  for (const bool weighted : {false, true}) {
    for (uint32_t threads : {0u, 128u, 224u, 448u, 896u}) {
      for (uint32_t r = 0; r < w.ranks; r++) cudaMemset(w.combine.to[r], 0xa5, w.tokens * w.rowBytes());
      const double ms = clock.median(15, [&] {
        const CombineLaunch launch = {FUSCO_DTYPE_BF16, Tree::none,         weighted,
                                      wideUnit,         w.ranks * w.tokens, threads};
        must(launchCombine(w.combine, launch, nullptr), "combine");
      });
      const auto bad = wrongs([&] { checkCombine<<<w.ranks * w.tokens, 256>>>(w.combine, weighted, wrong); });
      std::printf("combine %s threads %u: %.4f ms %.0f GB/s %.1f %%%s\n", weighted ? "weighted" : "plain",
                  threads, ms, total / ms / 1e6, total / ms / 1e4 / copyRate, bad == 0 ? "" : "  WRONG");
    }
  }
  const double again = clock.median(20, [&] { cudaMemcpyAsync(b, a, received, cudaMemcpyDeviceToDevice); });
  std::printf("copy again %.4f ms\n", again);
  return 0;
}
