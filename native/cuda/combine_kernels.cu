#include <algorithm>

#include "element_device.cuh"
#include "exchange_launch.hpp"
#include "peer_rows_device.cuh"
#include "plan_layout.h"

namespace fusco::cuda {

namespace {

// A row that a token adds up.
struct Term {
  const uint8_t *row;
  float weight;
  uint32_t closesNode;
};

constexpr uint32_t maxTopk = FUSCO_MAX_TOPK;

// What a block knows of its token.
struct TokenTerms {
  Term term[maxTopk];
  uint32_t node[maxTopk];
  uint32_t kept;
};

// Puts term `k` at its place in the order of addition.
template <bool hasPeers>
__device__ inline void putTerm(const CombineParams &p, TokenTerms &terms, uint32_t k, uint32_t topk,
                               Place place, float weight) {
  const uint32_t node = terms.node[k];
  uint32_t at = 0;
  uint32_t closes = 1;
  for (uint32_t other = 0; other < topk; other++) {
    at += terms.node[other] < node || (terms.node[other] == node && other < k) ? 1 : 0;
    if (other > k && terms.node[other] == node) closes = 0;
  }
  const uint8_t *rows = bufferOf<hasPeers>(p.peers, 0, place.peer, p.from[place.peer]);
  terms.term[at] = {rows + static_cast<uint64_t>(place.row) * p.rowBytes, weight, closes};
  atomicAdd(&terms.kept, 1u);
}

// Lists the terms of a token in the order of addition: by k, or by (node, k) along a tree. `weights` is the
// token's own, or null. All loads are issued before any is waited for: a token's rows cannot be asked for
// before they come.
template <bool hasPeers>
__device__ uint32_t listTerms(const CombineParams &p, uint32_t token, const float *weights, bool byNode,
                              TokenTerms &terms) {
  const DevicePlanHead *head = p.plan.head;
  const uint32_t topk = head->topk;
  const Place *places = p.plan.place + static_cast<uint64_t>(token) * topk;
  constexpr uint32_t none = 0xffffffffu;
  if (threadIdx.x == 0) terms.kept = 0;
  for (uint32_t first = 0; first < topk; first += blockDim.x) {
    const uint32_t k = first + threadIdx.x;
    Place place = {0, -1};
    float weight = 0.0f;
    if (k < topk) {
      place = places[k];
      if (weights != nullptr) weight = weights[k];
      terms.node[k] = place.row < 0 ? none : byNode ? place.peer / head->ranksPerNode : 0;
    }
    if (topk <= blockDim.x) {
      // The usual case keeps what it loaded.
      __syncthreads();
      if (place.row >= 0) putTerm<hasPeers>(p, terms, k, topk, place, weight);
    }
  }
  if (topk > blockDim.x) {
    __syncthreads();
    for (uint32_t k = threadIdx.x; k < topk; k += blockDim.x) {
      if (terms.node[k] != none)
        putTerm<hasPeers>(p, terms, k, topk, places[k], weights != nullptr ? weights[k] : 0.0f);
    }
  }
  __syncthreads();
  return terms.kept;
}

template <class L, bool weighted>
__device__ void addRow(float *sum, const typename L::Overlay &row, float weight) {
  float values[L::count];
  L::decode(row.unit, values);
  addWeighted<L::count>(sum, values, weighted, weight);
}

template <class E, class Unit, bool weighted, Tree tree>
__device__ Unit addTerms(const Term *terms, uint32_t count, uint64_t at) {
  using L = Lanes<E, Unit>;
  float sum[L::count] = {};
  float partial[L::count] = {};
  for (uint32_t first = 0; first < count; first += inFlight) {
    typename L::Overlay rows[inFlight];
#pragma unroll
    for (uint32_t j = 0; j < inFlight; j++) {
      if (first + j < count)
        rows[j].unit = loadOnce(reinterpret_cast<const Unit *>(terms[first + j].row) + at);
    }
#pragma unroll
    for (uint32_t j = 0; j < inFlight; j++) {
      if (first + j >= count) break;
      const Term &term = terms[first + j];
      addRow<L, weighted>(tree == Tree::none ? sum : partial, rows[j], term.weight);
      if (tree != Tree::none && term.closesNode != 0) closeNode<L>(sum, partial, tree == Tree::rounded);
    }
  }
  return L::encode(sum);
}

// A block for each token, or fewer blocks that take turns. `hasPeers`: p.peers knows where rows are. It is a
// parameter of the template because the test would delay the first load of every token.
template <class E, class Unit, bool weighted, Tree tree, bool hasPeers>
__global__ void combineTokens(const __grid_constant__ CombineParams p) {
  if (hasPeers && isGivenUp(p.peers)) return;
  __shared__ TokenTerms terms;
  const DevicePlanHead *head = p.plan.head;
  const uint64_t units = p.rowBytes / sizeof(Unit);
  for (uint32_t token = blockIdx.x; token < head->tokens; token += gridDim.x) {
    const TokenRow at = tokenRow(head, token);
    const float *weights = weighted ? p.weights[at.rank] + at.row * head->topk : nullptr;
    const uint32_t count = listTerms<hasPeers>(p, token, weights, tree != Tree::none, terms);
    auto *to = reinterpret_cast<Unit *>(p.to[at.rank] + at.row * p.rowBytes);
    for (uint64_t i = threadIdx.x; i < units; i += blockDim.x) {
      storeOnce(to + i, addTerms<E, Unit, weighted, tree>(terms.term, count, i));
    }
    // The next token's terms take the place of this one's.
    if (token + gridDim.x < head->tokens) __syncthreads();
  }
}

using CombineKernel = void (*)(CombineParams);

template <class E, class Unit, bool weighted, bool hasPeers>
CombineKernel combineKernel(Tree tree) {
  if (tree == Tree::kept) return combineTokens<E, Unit, weighted, Tree::kept, hasPeers>;
  if (tree == Tree::rounded) return combineTokens<E, Unit, weighted, Tree::rounded, hasPeers>;
  return combineTokens<E, Unit, weighted, Tree::none, hasPeers>;
}

template <class E, bool weighted, bool hasPeers>
CombineKernel combineKernel(const CombineLaunch &launch) {
  return launch.unit == wideUnit ? combineKernel<E, uint4, weighted, hasPeers>(launch.tree)
                                 : combineKernel<E, typename E::Bits, weighted, hasPeers>(launch.tree);
}

template <class E>
CombineKernel combineKernel(const CombineLaunch &launch, bool hasPeers) {
  if (hasPeers)
    return launch.isWeighted ? combineKernel<E, true, true>(launch) : combineKernel<E, false, true>(launch);
  return launch.isWeighted ? combineKernel<E, true, false>(launch) : combineKernel<E, false, false>(launch);
}

}  // namespace

cudaError_t launchCombine(const CombineParams &params, const CombineLaunch &launch, cudaStream_t stream) {
  if (launch.tokens == 0) return cudaSuccess;
  const bool hasPeers = params.peers.addresses != nullptr;
  const CombineKernel kernel = forElement(
      launch.dtype, [&](auto element) { return combineKernel<decltype(element)>(launch, hasPeers); });
  const uint32_t elementUnit =
      forElement(launch.dtype, [](auto element) { return decltype(element)::bytes; });
  const uint64_t units = params.rowBytes / (launch.unit == wideUnit ? wideUnit : elementUnit);
  const uint32_t threads = threadsOverRow(units);
  uint64_t blocks = launch.tokens;
  if (launch.sms > 0) blocks = std::min<uint64_t>(blocks, uint64_t{launch.sms} * (threadsPerSm / threads));
  kernel<<<static_cast<uint32_t>(blocks), threads, 0, stream>>>(params);
  return cudaGetLastError();
}

}  // namespace fusco::cuda
