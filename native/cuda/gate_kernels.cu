// Top-k of a router's scores and its gradient, a warp for each token. Lane j has experts j, j + 32, ...,
// which is the order of a softmax's sum. The same bits as native/host/gate.cc.

#include "element_device.cuh"
#include "math.hpp"
#include "row_launch.hpp"

namespace fusco::cuda {

namespace {

constexpr uint32_t maxWarps = 8;
// Shared memory that every kernel may have without asking.
constexpr uint32_t plainSharedBytes = 48 * 1024;

// A number as bits that are ordered as it is: never 0, which is left for what cannot be chosen. Choices are
// never -0: scores are not, and a sum is -0 only where both parts are.
__device__ uint32_t keyOf(float value) {
  const uint32_t bits = toBits(nanLowest(value));
  return bits ^ ((bits >> 31) != 0 ? 0xffffffffu : 0x80000000u);
}

__device__ float valueOf(uint32_t key) {
  return fromBits(key ^ ((key >> 31) != 0 ? 0x80000000u : 0xffffffffu));
}

__device__ float canonical(float value) { return fromBits(encodeF32(value)); }

__host__ __device__ bool isGrouped(const fusco_gate_options &options) {
  return options.group_topk < options.groups;
}

__host__ __device__ uint32_t groupSize(const fusco_gate_options &options) {
  return options.experts / options.groups;
}

__host__ __device__ uint32_t wordsOf(uint32_t bits) { return (bits + 31) / 32; }

// A warp's part of shared memory, in words; what there is depends on the options alone.
struct Space {
  float *chosen;        // [topk], scores
  uint32_t *ids;        // [topk]
  uint32_t *kept;       // [groups] bits
  uint32_t *groupKeys;  // [groups], where groups have several experts
  uint32_t *own;        // of the holder of the scores

  __device__ Space(const fusco_gate_options &options, uint32_t *words) {
    chosen = reinterpret_cast<float *>(words);
    ids = words + options.topk;
    kept = ids + options.topk;
    groupKeys = kept + (isGrouped(options) ? wordsOf(options.groups) : 0);
    own = groupKeys + groupKeyWords(options);
  }
  __host__ __device__ static uint32_t groupKeyWords(const fusco_gate_options &options) {
    return isGrouped(options) && groupSize(options) > 1 ? options.groups : 0;
  }
  // Words without those of the holder.
  static uint32_t words(const fusco_gate_options &options) {
    return 2 * options.topk + (isGrouped(options) ? wordsOf(options.groups) : 0) + groupKeyWords(options);
  }
};

// A token's scores and their keys in registers, for up to 32 * perLane experts.
template <uint32_t perLane>
class InRegisters {
 public:
  __device__ InRegisters(const GateParams &p, uint64_t token, uint32_t *own)
      : p_(p), scores_(p.scores + token * p.options.experts), own_(own), lane_(threadIdx.x % 32) {}

  static uint32_t words(const fusco_gate_options &options) {
    return isGrouped(options) ? options.experts : 0;
  }

  // Calls work(i, expert) for every expert of this lane, ascending.
  template <class F>
  __device__ __forceinline__ void each(F work) const {
#pragma unroll
    for (uint32_t i = 0; i < perLane; i++) {
      const uint32_t expert = i * 32 + lane_;
      if (expert < p_.options.experts) work(i, expert);
    }
  }
  __device__ __forceinline__ float &score(uint32_t i, uint32_t) { return score_[i]; }
  __device__ __forceinline__ uint32_t key(uint32_t i, uint32_t) const { return key_[i]; }
  __device__ __forceinline__ void drop(uint32_t i, uint32_t) { key_[i] = 0; }

  // Stores the scores and makes the keys.
  __device__ __forceinline__ void publish() {
    each([&](uint32_t i, uint32_t expert) {
      scores_[expert] = canonical(score_[i]);
      key_[i] = keyOf(p_.bias == nullptr ? score_[i] : score_[i] + p_.bias[expert]);
      if (isGrouped(p_.options)) own_[expert] = key_[i];
    });
    __syncwarp();
  }
  // The key of any lane's expert, as published.
  __device__ uint32_t keyAt(uint32_t expert) const { return own_[expert]; }

  // The score of an expert that is now taken, on the lane that has it.
  __device__ __forceinline__ float take(uint32_t taken) {
    float found = 0.0f;
    each([&](uint32_t i, uint32_t expert) {
      if (expert != taken) return;
      found = score_[i];
      key_[i] = 0;
    });
    return found;
  }

 private:
  const GateParams &p_;
  float *scores_;
  uint32_t *own_;
  uint32_t lane_;
  float score_[perLane];
  uint32_t key_[perLane];
};

// The same for any number of experts: scores in their place in memory, keys computed whenever they are asked
// for.
class InMemory {
 public:
  __device__ InMemory(const GateParams &p, uint64_t token, uint32_t *own)
      : p_(p), scores_(p.scores + token * p.options.experts), dropped_(own), lane_(threadIdx.x % 32) {}

  // A bit for each expert; no two lanes share a word.
  static uint32_t words(const fusco_gate_options &options) { return 32 * wordsOf(wordsOf(options.experts)); }

  template <class F>
  __device__ __forceinline__ void each(F work) const {
    for (uint32_t i = 0, expert = lane_; expert < p_.options.experts; i++, expert += 32) work(i, expert);
  }
  __device__ float &score(uint32_t, uint32_t expert) { return scores_[expert]; }
  __device__ uint32_t key(uint32_t i, uint32_t expert) const {
    return (dropped_[i / 32 * 32 + lane_] >> i % 32 & 1u) != 0 ? 0 : keyAt(expert);
  }
  __device__ void drop(uint32_t i, uint32_t) { dropped_[i / 32 * 32 + lane_] |= 1u << i % 32; }

  __device__ void publish() {
    for (uint32_t i = 0; i < wordsOf(wordsOf(p_.options.experts)); i++) dropped_[32 * i + lane_] = 0;
    each([&](uint32_t, uint32_t expert) { scores_[expert] = canonical(scores_[expert]); });
    __syncwarp();
  }
  __device__ uint32_t keyAt(uint32_t expert) const {
    return keyOf(p_.bias == nullptr ? scores_[expert] : scores_[expert] + p_.bias[expert]);
  }

  __device__ float take(uint32_t taken) {
    if (taken % 32 != lane_) return 0.0f;
    drop(taken / 32, taken);
    return scores_[taken];
  }

 private:
  const GateParams &p_;
  float *scores_;
  uint32_t *dropped_;
  uint32_t lane_;
};

// Adds lanes at distance 16, 8, 4, 2, 1.
__device__ float addLanes(float sum) {
#pragma unroll
  for (uint32_t distance = 16; distance >= 1; distance /= 2) {
    sum += __shfl_down_sync(allLanes, sum, distance);
  }
  return __shfl_sync(allLanes, sum, 0);
}

template <class Holder>
__device__ __forceinline__ void scoreToken(const GateParams &p, uint64_t token, Holder &at) {
  const float *logits = p.logits + token * p.options.experts;
  at.each([&](uint32_t i, uint32_t expert) { at.score(i, expert) = loadOnce(logits + expert); });
  if (p.options.score == FUSCO_SCORE_SIGMOID) {
    at.each([&](uint32_t i, uint32_t expert) { at.score(i, expert) = sigmoidFloat(at.score(i, expert)); });
    return;
  }
  float top = fromBits(0xff800000u);
  at.each([&](uint32_t i, uint32_t expert) {
    const float value = at.score(i, expert);
    top = value > top ? value : top;
  });
#pragma unroll
  for (uint32_t distance = 16; distance >= 1; distance /= 2) {
    const float other = __shfl_xor_sync(allLanes, top, distance);
    top = other > top ? other : top;
  }
  float sum = 0.0f;
  at.each([&](uint32_t i, uint32_t expert) {
    const float value = expFloat(at.score(i, expert) - top);
    at.score(i, expert) = value;
    sum += value;
  });
  sum = addLanes(sum);
  at.each([&](uint32_t i, uint32_t expert) { at.score(i, expert) = at.score(i, expert) / sum; });
}

// The largest power of two up to the size of a group, at most 32: the number of lanes that look at one group.
__device__ uint32_t lanesOfGroup(uint32_t size) { return size >= 32 ? 32 : 1u << (31 - __clz(size)); }

// What each group is judged by, into space.groupKeys.
template <class Holder>
__device__ void judgeGroups(const fusco_gate_options &options, const Holder &at, const Space &space) {
  const uint32_t size = groupSize(options);
  const uint32_t width = lanesOfGroup(size);
  const uint32_t lane = threadIdx.x % 32;
  for (uint32_t begin = 0; begin < options.groups; begin += 32 / width) {
    const uint32_t group = begin + lane / width;
    uint32_t first = 0;
    uint32_t second = 0;
    for (uint32_t i = lane % width; i < size && group < options.groups; i += width) {
      const uint32_t key = at.keyAt(group * size + i);
      second = max(second, min(first, key));
      first = max(first, key);
    }
    for (uint32_t distance = width / 2; distance >= 1; distance /= 2) {
      const uint32_t otherFirst = __shfl_xor_sync(allLanes, first, distance);
      const uint32_t otherSecond = __shfl_xor_sync(allLanes, second, distance);
      second = max(max(second, otherSecond), min(first, otherFirst));
      first = max(first, otherFirst);
    }
    if (group < options.groups && lane % width == 0) {
      space.groupKeys[group] =
          options.group_score == FUSCO_GROUP_MAX ? first : keyOf(valueOf(first) + valueOf(second));
    }
  }
  __syncwarp();
}

// Drops the experts of the groups that lose: a group stays where fewer than group_topk are better, or as good
// with a lower number.
template <class Holder>
__device__ __forceinline__ void limitGroups(const fusco_gate_options &options, Holder &at,
                                            const Space &space) {
  const uint32_t size = groupSize(options);
  const uint32_t lane = threadIdx.x % 32;
  if (size > 1) judgeGroups(options, at, space);
  const auto keyOfGroup = [&](uint32_t group) { return size > 1 ? space.groupKeys[group] : at.keyAt(group); };
  for (uint32_t begin = 0; begin < options.groups; begin += 32) {
    const uint32_t group = begin + lane;
    bool stays = false;
    if (group < options.groups) {
      const uint32_t key = keyOfGroup(group);
      uint32_t better = 0;
      for (uint32_t other = 0; other < options.groups && better < options.group_topk; other++) {
        const uint32_t otherKey = keyOfGroup(other);
        better += otherKey > key || (otherKey == key && other < group) ? 1 : 0;
      }
      stays = better < options.group_topk;
    }
    const uint32_t word = __ballot_sync(allLanes, stays);
    if (lane == 0) space.kept[begin / 32] = word;
  }
  __syncwarp();
  at.each([&](uint32_t i, uint32_t expert) {
    const uint32_t group = expert / size;
    if ((space.kept[group / 32] >> group % 32 & 1u) == 0) at.drop(i, expert);
  });
}

// Chooses the experts into `space`, and returns the sum of their scores in the order of k.
template <class Holder>
__device__ __forceinline__ float choose(const fusco_gate_options &options, Holder &at, const Space &space) {
  float sum = 0.0f;
  for (uint32_t k = 0; k < options.topk; k++) {
    uint32_t key = 0;
    uint32_t expert = 0;
    at.each([&](uint32_t i, uint32_t e) {
      const uint32_t found = at.key(i, e);
      expert = found > key ? e : expert;
      key = max(found, key);
    });
    const uint32_t top = __reduce_max_sync(allLanes, key);
    const uint32_t taken = __reduce_min_sync(allLanes, key == top ? expert : 0xffffffffu);
    const float score = __shfl_sync(allLanes, at.take(taken), taken % 32);
    if (threadIdx.x % 32 == 0) {
      space.chosen[k] = score;
      space.ids[k] = taken;
    }
    sum += score;
  }
  __syncwarp();
  return sum;
}

// Calls work(token) for every token of this warp.
template <class F>
__device__ __forceinline__ void eachToken(uint64_t tokens, F work) {
  const uint32_t warps = blockDim.x / 32;
  for (uint64_t token = blockIdx.x * uint64_t{warps} + threadIdx.x / 32; token < tokens;
       token += gridDim.x * uint64_t{warps}) {
    work(token);
    __syncwarp();
  }
}

template <class Holder>
__global__ void __launch_bounds__(maxWarps * 32)
    gateTokens(const __grid_constant__ GateParams p, uint32_t warpWords) {
  extern __shared__ uint32_t shared[];
  const fusco_gate_options &options = p.options;
  const Space space(options, shared + threadIdx.x / 32 * warpWords);
  eachToken(p.tokens, [&](uint64_t token) {
    Holder at(p, token, space.own);
    scoreToken(p, token, at);
    at.publish();
    if (isGrouped(options)) limitGroups(options, at, space);
    const float sum = choose(options, at, space);
    const float divisor = options.normalize != 0 ? sum + normalizeFloor : 1.0f;
    for (uint32_t k = threadIdx.x % 32; k < options.topk; k += 32) {
      p.ids[token * options.topk + k] = static_cast<int32_t>(space.ids[k]);
      p.weights[token * options.topk + k] = canonical(space.chosen[k] / divisor * options.scale);
    }
  });
}

// One token's entries while its gradient is made.
struct Entries {
  uint32_t *ids;
  float *score;
  float *gradient;
  float *term;
  uint32_t topk;

  __device__ Entries(uint32_t count, uint32_t *words)
      : ids(words),
        score(reinterpret_cast<float *>(words + count)),
        gradient(reinterpret_cast<float *>(words + 2 * count)),
        term(reinterpret_cast<float *>(words + 3 * count)),
        topk(count) {}
  static uint32_t words(const fusco_gate_options &options) { return 4 * options.topk; }

  template <class F>
  __device__ void each(F work) const {
    for (uint32_t k = threadIdx.x % 32; k < topk; k += 32) work(k);
    __syncwarp();
  }
  // In the order of k, from +0; the same on every lane.
  __device__ float sum(const float *values) const {
    float total = 0.0f;
    for (uint32_t k = 0; k < topk; k++) total += values[k];
    return total;
  }
};

// The gradients of the chosen scores. An id out of range becomes an entry that is nowhere and counts for
// nothing.
__device__ void readEntries(const GateBackwardParams &p, uint64_t token, const float *scores,
                            const Entries &at) {
  at.each([&](uint32_t k) {
    const auto id = static_cast<uint32_t>(p.ids[token * at.topk + k]);
    const bool inside = id < p.options.experts;
    at.ids[k] = inside ? id : 0xffffffffu;
    at.score[k] = inside ? scores[id] : 0.0f;
    at.gradient[k] = inside ? p.weightsGradient[token * at.topk + k] * p.options.scale : 0.0f;
  });
  if (p.options.normalize == 0) return;
  const float divisor = at.sum(at.score) + normalizeFloor;
  at.each([&](uint32_t k) { at.term[k] = at.gradient[k] * (at.score[k] / divisor); });
  const float dot = at.sum(at.term);
  at.each([&](uint32_t k) { at.gradient[k] = (at.gradient[k] - dot) / divisor; });
}

__global__ void __launch_bounds__(maxWarps * 32)
    gateBackwardTokens(const __grid_constant__ GateBackwardParams p, uint32_t warpWords) {
  extern __shared__ uint32_t shared[];
  const fusco_gate_options &options = p.options;
  const bool softmax = options.score == FUSCO_SCORE_SOFTMAX;
  const Entries at(options.topk, shared + threadIdx.x / 32 * warpWords);
  const uint32_t lane = threadIdx.x % 32;
  eachToken(p.tokens, [&](uint64_t token) {
    const float *scores = p.scores + token * options.experts;
    float *to = p.logitsGradient + token * options.experts;
    readEntries(p, token, scores, at);
    float common = 0.0f;
    if (softmax) {
      at.each([&](uint32_t k) { at.term[k] = at.gradient[k] * at.score[k]; });
      common = at.sum(at.term);
    }
    const auto gradientOf = [&](float score, float own) {
      const float slope = softmax ? score : score * (1.0f - score);
      return canonical(slope * (own - common));
    };
#pragma unroll 8
    for (uint32_t e = lane; e < options.experts; e += 32) to[e] = gradientOf(loadOnce(scores + e), 0.0f);
    // The lane of each expert puts its gradient over that: later stores of one thread stay later.
    for (uint32_t k = 0; k < options.topk; k++) {
      const uint32_t id = at.ids[k];
      if (id < options.experts && id % 32 == lane) to[id] = gradientOf(at.score[k], at.gradient[k]);
    }
  });
}

// Launches a kernel with a warp for each token and so much shared memory for each warp.
template <class Kernel, class Params>
cudaError_t launchWarps(Kernel kernel, const Params &params, uint32_t warpWords, const DeviceLimits &limits,
                        cudaStream_t stream) {
  if (params.tokens == 0) return cudaSuccess;
  const uint32_t warpBytes = 4 * warpWords;
  uint32_t warps = maxWarps;
  while (warps > 1 && warps * warpBytes > plainSharedBytes) warps /= 2;
  const uint32_t bytes = warps * warpBytes;
  if (bytes > plainSharedBytes) {
    const cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
    if (error != cudaSuccess) return error;
  }
  const uint64_t wanted = (params.tokens + warps - 1) / warps;
  const uint64_t most = uint64_t{limits.sms} * 64;
  const auto blocks = static_cast<uint32_t>(wanted < most ? wanted : most);
  kernel<<<blocks, warps * 32, bytes, stream>>>(params, warpWords);
  return cudaGetLastError();
}

template <class Holder>
cudaError_t launchHolder(const GateParams &params, const DeviceLimits &limits, cudaStream_t stream) {
  const uint32_t words = Space::words(params.options) + Holder::words(params.options);
  return launchWarps(gateTokens<Holder>, params, words, limits, stream);
}

}  // namespace

cudaError_t launchGate(const GateParams &params, const DeviceLimits &limits, cudaStream_t stream) {
  const uint32_t experts = params.options.experts;
  if (experts <= 32) return launchHolder<InRegisters<1>>(params, limits, stream);
  if (experts <= 64) return launchHolder<InRegisters<2>>(params, limits, stream);
  if (experts <= 128) return launchHolder<InRegisters<4>>(params, limits, stream);
  if (experts <= 256) return launchHolder<InRegisters<8>>(params, limits, stream);
  if (experts <= 512) return launchHolder<InRegisters<16>>(params, limits, stream);
  if (experts <= 1024) return launchHolder<InRegisters<32>>(params, limits, stream);
  return launchHolder<InMemory>(params, limits, stream);
}

cudaError_t launchGateBackward(const GateBackwardParams &params, const DeviceLimits &limits,
                               cudaStream_t stream) {
  return launchWarps(gateBackwardTokens, params, Entries::words(params.options), limits, stream);
}

}  // namespace fusco::cuda
