// Copies, and combine, scale and dot over vectors of eight, written once. V<dtype> supplies the vector of one
// processor kind:
//   Vec; zero(); splat(float); add(a, b); mul(a, b); load(bytes); store2(bytes, v, v, nonTemporal);
//   spill(float[8], v); round(v): to the dtype and back
// Included by one source file for each kind; everything has internal linkage.
#pragma once

#include <cstddef>
#include <cstdint>

#include "element.hpp"
#include "kernels.hpp"

namespace fusco {
namespace {

constexpr size_t lanes = 8;

// Elements that are summed in registers at a time: eight accumulators of eight.
constexpr size_t blockVectors = 8;

// How far ahead of the sum rows are fetched, in bytes. A token's rows lie in as many pages, and the
// processor's prefetching starts again in each of them.
constexpr size_t aheadBytes = 1024;
constexpr size_t lineBytes = 64;

template <class V, Tree tree, bool weighted>
void combineBlock(uint8_t *out, const Term *terms, size_t count, size_t at, size_t ahead, bool nonTemporal) {
  constexpr size_t size = V::Element::bytes;
  typename V::Vec sum[blockVectors];
  typename V::Vec total[blockVectors];
  for (auto &part : sum) part = V::zero();
  for (auto &part : total) part = V::zero();
  for (size_t t = 0; t < count; t++) {
    const uint8_t *row = terms[t].row + at * size;
    for (size_t line = 0; line < blockVectors * lanes * size; line += lineBytes) {
      __builtin_prefetch(row + ahead + line);
    }
    const auto weight = V::splat(weighted ? terms[t].weight : 0.0f);
    for (size_t v = 0; v < blockVectors; v++) {
      const auto value = V::load(row + v * lanes * size);
      sum[v] = V::add(sum[v], weighted ? V::mul(weight, value) : value);
    }
    if (tree == Tree::none || !terms[t].closesNode) continue;
    for (size_t v = 0; v < blockVectors; v++) {
      total[v] = V::add(total[v], tree == Tree::rounded ? V::round(sum[v]) : sum[v]);
      sum[v] = V::zero();
    }
  }
  const auto &result = tree == Tree::none ? sum : total;
  uint8_t *to = out + at * size;
  for (size_t v = 0; v < blockVectors; v += 2) {
    V::store2(to + v * lanes * size, result[v], result[v + 1], nonTemporal);
  }
}

// One element, for the tail of a row.
template <class E, Tree tree, bool weighted>
float combineElement(const Term *terms, size_t count, size_t at) {
  float sum = 0.0f;
  float total = 0.0f;
  for (size_t t = 0; t < count; t++) {
    const float value = E::load(terms[t].row + at * E::bytes);
    sum += weighted ? terms[t].weight * value : value;
    if (tree == Tree::none || !terms[t].closesNode) continue;
    uint8_t partial[E::bytes];
    E::store(partial, sum);
    total += tree == Tree::rounded ? E::load(partial) : sum;
    sum = 0.0f;
  }
  return tree == Tree::none ? sum : total;
}

template <class V, Tree tree, bool weighted>
void combineRow(uint8_t *out, const Term *terms, size_t count, size_t elements, bool nonTemporal) {
  using E = typename V::Element;
  constexpr size_t block = blockVectors * lanes;
  const bool aligned = reinterpret_cast<uintptr_t>(out) % 32 == 0;
  size_t at = 0;
  for (; at + block <= elements; at += block) {
    const bool more = at * E::bytes + aheadBytes + block * E::bytes <= elements * E::bytes;
    combineBlock<V, tree, weighted>(out, terms, count, at, more ? aheadBytes : 0, nonTemporal && aligned);
  }
  for (; at < elements; at++) {
    E::store(out + at * E::bytes, combineElement<E, tree, weighted>(terms, count, at));
  }
}

template <class V>
void scaleRow(uint8_t *out, const uint8_t *row, float weight, size_t elements) {
  using E = typename V::Element;
  const auto factor = V::splat(weight);
  size_t at = 0;
  for (; at + 2 * lanes <= elements; at += 2 * lanes) {
    const uint8_t *from = row + at * E::bytes;
    V::store2(out + at * E::bytes, V::mul(V::load(from), factor),
              V::mul(V::load(from + lanes * E::bytes), factor), false);
  }
  for (; at < elements; at++) E::store(out + at * E::bytes, E::load(row + at * E::bytes) * weight);
}

template <class V>
float dotRow(const uint8_t *a, const uint8_t *b, size_t elements) {
  using E = typename V::Element;
  constexpr size_t width = dotLanes;
  typename V::Vec sum[width / lanes];
  for (auto &part : sum) part = V::zero();
  size_t at = 0;
  for (; at + width <= elements; at += width) {
    for (size_t v = 0; v < width / lanes; v++) {
      const size_t from = (at + v * lanes) * E::bytes;
      sum[v] = V::add(sum[v], V::mul(V::load(a + from), V::load(b + from)));
    }
  }
  float lane[width];
  for (size_t v = 0; v < width / lanes; v++) V::spill(lane + v * lanes, sum[v]);
  for (size_t j = 0; at < elements; at++, j++) {
    lane[j] += E::load(a + at * E::bytes) * E::load(b + at * E::bytes);
  }
  for (size_t distance = width / 2; distance >= 1; distance /= 2) {
    for (size_t j = 0; j < distance; j++) lane[j] += lane[j + distance];
  }
  return fromBits(encodeF32(lane[0]));
}

void copyRow(const uint8_t *row, uint8_t *const *places, size_t count, size_t bytes) {
  for (size_t i = 0; i < count; i++) std::memcpy(places[i], row, bytes);
}

template <class V>
constexpr Arithmetic arithmeticOf() {
  return {{{combineRow<V, Tree::none, false>, combineRow<V, Tree::none, true>},
           {combineRow<V, Tree::kept, false>, combineRow<V, Tree::kept, true>},
           {combineRow<V, Tree::rounded, false>, combineRow<V, Tree::rounded, true>}},
          scaleRow<V>,
          dotRow<V>};
}

}  // namespace
}  // namespace fusco
