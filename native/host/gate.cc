#include "gate.hpp"

#include <algorithm>
#include <cmath>

#include "failure.hpp"
#include "math.hpp"
#include "plan_layout.h"

namespace fusco {

namespace {

constexpr uint64_t maxTokens = uint64_t{1} << 40;
constexpr uint64_t taskScores = uint64_t{1} << 13;
constexpr uint32_t sumLanes = 32;

void checkRange(const char *name, uint64_t value, uint64_t max) {
  if (value >= 1 && value <= max) return;
  throw Failure(FUSCO_E_OPTION, "%s is %llu; it must be from 1 to %llu", name, value, max)
      .limited(value, max);
}

void checkOptions(const fusco_gate_options &options, uint64_t tokens) {
  checkRange("experts", options.experts, FUSCO_MAX_INSTANCES);
  checkRange("topk", options.topk, std::min<uint64_t>(FUSCO_MAX_TOPK, options.experts));
  checkRange("groups", options.groups, options.experts);
  checkRange("group_topk", options.group_topk, options.groups);
  if (tokens > maxTokens)
    throw Failure(FUSCO_E_OPTION, "tokens is beyond its limit").limited(tokens, maxTokens);
  if (options.experts % options.groups != 0) {
    throw Failure(FUSCO_E_OPTION, "%u groups do not divide %u experts", options.groups, options.experts);
  }
  const uint32_t reach = options.experts / options.groups * options.group_topk;
  if (options.topk > reach) {
    throw Failure(FUSCO_E_OPTION, "topk %u is more than the %u experts of %u groups", options.topk, reach,
                  options.group_topk)
        .limited(options.topk, reach);
  }
  if (options.score != FUSCO_SCORE_SOFTMAX && options.score != FUSCO_SCORE_SIGMOID) {
    throw Failure(FUSCO_E_OPTION, "score is %d; it must be 0 or 1", options.score);
  }
  if (options.group_score != FUSCO_GROUP_MAX && options.group_score != FUSCO_GROUP_TOP2) {
    throw Failure(FUSCO_E_OPTION, "group_score is %d; it must be 0 or 1", options.group_score);
  }
}

template <class T>
T loadAt(const uint8_t *base, uint64_t index) {
  T value;
  std::memcpy(&value, base + index * sizeof value, sizeof value);
  return value;
}

void storeF32(uint8_t *base, uint64_t index, float value) { F32::store(base + index * F32::bytes, value); }

// Lane j adds elements j, j + 32, ...; then lanes are added at distance 16, 8, 4, 2, 1.
float laneSum(const float *values, uint32_t count) {
  float lane[sumLanes] = {};
  uint32_t i = 0;
  for (; i + sumLanes <= count; i += sumLanes) {
    for (uint32_t j = 0; j < sumLanes; j++) lane[j] += values[i + j];
  }
  for (uint32_t j = 0; i < count; i++, j++) lane[j] += values[i];
  for (uint32_t distance = sumLanes / 2; distance >= 1; distance /= 2) {
    for (uint32_t j = 0; j < distance; j++) lane[j] += lane[j + distance];
  }
  return lane[0];
}

// The best of values[begin, end) that is not marked, ties to the lower index.
uint32_t best(const float *values, const uint8_t *marked, uint32_t begin, uint32_t end) {
  uint32_t found = end;
  for (uint32_t i = begin; i < end; i++) {
    if (!marked[i] && (found == end || values[i] > values[found])) found = i;
  }
  return found;
}

// What one task needs for a token; made for every task of many tokens.
struct Scratch {
  explicit Scratch(const fusco_gate_options &options)
      : scores(options.experts),
        choice(options.experts),
        groupChoice(options.groups),
        marked(options.experts),
        groupMarked(options.groups) {}
  std::vector<float> scores, choice, groupChoice;
  std::vector<uint8_t> marked, groupMarked;
};

void scoreToken(const fusco_gate_options &options, const uint8_t *logits, std::vector<float> &scores) {
  const uint32_t experts = options.experts;
  for (uint32_t e = 0; e < experts; e++) scores[e] = loadAt<float>(logits, e);
  if (options.score == FUSCO_SCORE_SIGMOID) {
    for (uint32_t e = 0; e < experts; e++) scores[e] = sigmoidFloat(scores[e]);
    return;
  }
  float top = -INFINITY;
  for (uint32_t e = 0; e < experts; e++) top = scores[e] > top ? scores[e] : top;
  for (uint32_t e = 0; e < experts; e++) scores[e] = expFloat(scores[e] - top);
  const float sum = laneSum(scores.data(), experts);
  for (uint32_t e = 0; e < experts; e++) scores[e] = scores[e] / sum;
}

// Marks the experts of the groups that lose.
void limitGroups(const fusco_gate_options &options, Scratch &at) {
  const uint32_t size = options.experts / options.groups;
  for (uint32_t g = 0; g < options.groups; g++) {
    const uint32_t begin = g * size;
    const uint32_t first = best(at.choice.data(), at.marked.data(), begin, begin + size);
    at.groupChoice[g] = at.choice[first];
    if (options.group_score == FUSCO_GROUP_MAX || size == 1) continue;
    at.marked[first] = 1;
    const uint32_t second = best(at.choice.data(), at.marked.data(), begin, begin + size);
    // Infinities of both signs add up to a NaN.
    at.groupChoice[g] = nanLowest(at.choice[first] + at.choice[second]);
    at.marked[first] = 0;
  }
  std::fill(at.groupMarked.begin(), at.groupMarked.end(), uint8_t{0});
  for (uint32_t i = 0; i < options.group_topk; i++) {
    at.groupMarked[best(at.groupChoice.data(), at.groupMarked.data(), 0, options.groups)] = 1;
  }
  for (uint32_t e = 0; e < options.experts; e++) at.marked[e] = at.groupMarked[e / size] == 0;
}

float normalizer(const fusco_gate_options &options, const float *chosen) {
  float sum = 0.0f;
  for (uint32_t k = 0; k < options.topk; k++) sum += chosen[k];
  return sum + normalizeFloor;
}

void gateToken(const fusco_gate_call &call, uint64_t token, Scratch &at) {
  const fusco_gate_options &options = call.options;
  const uint32_t experts = options.experts;
  const auto *logits = static_cast<const uint8_t *>(call.logits.data) + token * experts * F32::bytes;
  scoreToken(options, logits, at.scores);
  auto *scores = static_cast<uint8_t *>(call.scores.data) + token * experts * F32::bytes;
  for (uint32_t e = 0; e < experts; e++) storeF32(scores, e, at.scores[e]);
  const auto *bias = static_cast<const uint8_t *>(call.bias.data);
  for (uint32_t e = 0; e < experts; e++) {
    const float value = bias == nullptr ? at.scores[e] : at.scores[e] + loadAt<float>(bias, e);
    at.choice[e] = nanLowest(value);
  }
  std::fill(at.marked.begin(), at.marked.end(), uint8_t{0});
  if (options.group_topk < options.groups) limitGroups(options, at);
  float chosen[FUSCO_MAX_TOPK];
  auto *ids = static_cast<uint8_t *>(call.ids.data) + token * options.topk * 4;
  for (uint32_t k = 0; k < options.topk; k++) {
    const uint32_t expert = best(at.choice.data(), at.marked.data(), 0, experts);
    at.marked[expert] = 1;
    chosen[k] = at.scores[expert];
    std::memcpy(ids + 4 * k, &expert, 4);
  }
  const float divisor = options.normalize != 0 ? normalizer(options, chosen) : 1.0f;
  auto *weights = static_cast<uint8_t *>(call.weights.data) + token * options.topk * F32::bytes;
  for (uint32_t k = 0; k < options.topk; k++) storeF32(weights, k, chosen[k] / divisor * options.scale);
}

void backwardToken(const fusco_gate_backward_call &call, uint64_t token, Scratch &at) {
  const fusco_gate_options &options = call.options;
  const uint32_t experts = options.experts;
  const uint32_t topk = options.topk;
  const auto *scores = static_cast<const uint8_t *>(call.scores.data) + token * experts * F32::bytes;
  const auto *ids = static_cast<const uint8_t *>(call.ids.data) + token * topk * 4;
  const auto *upstream = static_cast<const uint8_t *>(call.weights_gradient.data) + token * topk * F32::bytes;
  float chosen[FUSCO_MAX_TOPK];
  float gradient[FUSCO_MAX_TOPK];
  for (uint32_t k = 0; k < topk; k++) {
    chosen[k] = loadAt<float>(scores, static_cast<uint32_t>(loadAt<int32_t>(ids, k)));
    gradient[k] = loadAt<float>(upstream, k) * options.scale;
  }
  if (options.normalize != 0) {
    const float divisor = normalizer(options, chosen);
    float dot = 0.0f;
    for (uint32_t k = 0; k < topk; k++) dot += gradient[k] * (chosen[k] / divisor);
    for (uint32_t k = 0; k < topk; k++) gradient[k] = (gradient[k] - dot) / divisor;
  }
  float shared = 0.0f;
  if (options.score == FUSCO_SCORE_SOFTMAX) {
    for (uint32_t k = 0; k < topk; k++) shared += gradient[k] * chosen[k];
  }
  std::fill(at.scores.begin(), at.scores.end(), 0.0f);
  for (uint32_t k = 0; k < topk; k++) at.scores[loadAt<int32_t>(ids, k)] = gradient[k];
  auto *to = static_cast<uint8_t *>(call.logits_gradient.data) + token * experts * F32::bytes;
  for (uint32_t e = 0; e < experts; e++) {
    const float score = loadAt<float>(scores, e);
    const float slope = options.score == FUSCO_SCORE_SOFTMAX ? score : score * (1.0f - score);
    storeF32(to, e, slope * (at.scores[e] - shared));
  }
}

// Checks the options and the buffers that both directions have.
template <class Call>
RowBuffers checkCommon(const Call &call, const CheckMemory &each) {
  checkOptions(call.options, call.tokens);
  RowBuffers buffers(each);
  buffers.add("scores", call.scores, call.tokens * call.options.experts, F32::bytes);
  buffers.add("ids", call.ids, call.tokens * call.options.topk, sizeof(int32_t));
  return buffers;
}

template <class Call>
void eachToken(Context &context, const Call &call, void (*token)(const Call &, uint64_t, Scratch &)) {
  // One scratch for each task that may run at a time would do; a few are made, before any thread starts.
  const uint64_t tasks = std::min<uint64_t>(
      context.pool().threads(), (call.tokens * call.options.experts + taskScores - 1) / taskScores);
  std::vector<Scratch> scratch(tasks, Scratch(call.options));
  auto work = [&](uint32_t task) {
    const uint64_t end = call.tokens * (task + uint64_t{1}) / tasks;
    for (uint64_t t = call.tokens * task / tasks; t < end; t++) token(call, t, scratch[task]);
  };
  context.pool().each(static_cast<uint32_t>(tasks), work);
}

}  // namespace

void checkGate(const fusco_gate_call &call, const CheckMemory &each) {
  RowBuffers buffers = checkCommon(call, each);
  buffers.add("logits", call.logits, call.tokens * call.options.experts, F32::bytes);
  buffers.add("weights", call.weights, call.tokens * call.options.topk, F32::bytes);
  if (call.bias.data != nullptr) buffers.add("bias", call.bias, call.options.experts, F32::bytes);
}

void checkGateBackward(const fusco_gate_backward_call &call, const CheckMemory &each) {
  RowBuffers buffers = checkCommon(call, each);
  buffers.add("logits gradient", call.logits_gradient, call.tokens * call.options.experts, F32::bytes);
  buffers.add("weights gradient", call.weights_gradient, call.tokens * call.options.topk, F32::bytes);
}

void gate(Context &context, const fusco_gate_call &call) {
  checkGate(call);
  eachToken(context, call, gateToken);
}

void gateBackward(Context &context, const fusco_gate_backward_call &call) {
  checkGateBackward(call);
  const fusco_gate_options &options = call.options;
  const auto *ids = static_cast<const uint8_t *>(call.ids.data);
  for (uint64_t entry = 0; entry < call.tokens * options.topk; entry++) {
    const auto id = loadAt<int32_t>(ids, entry);
    if (id >= 0 && static_cast<uint32_t>(id) < options.experts) continue;
    throw Failure(FUSCO_E_OPTION, "id %d of entry %llu is not in 0..%u", id, entry, options.experts - 1);
  }
  eachToken(context, call, backwardToken);
}

}  // namespace fusco
