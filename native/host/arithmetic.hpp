// The kernels of a processor kind, over vectors of float32 in the vector extension of GCC and Clang.
// Included by one source file for each kind, which is compiled for it; everything has internal linkage.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "element.hpp"
#include "kernels.hpp"

namespace fusco {
namespace {

#if defined(__AVX2__)
constexpr size_t lanes = 8;
#else
constexpr size_t lanes = 4;
#endif
using Vec = float __attribute__((vector_size(4 * lanes)));
using Words = uint32_t __attribute__((vector_size(4 * lanes)));
using Halves = uint16_t __attribute__((vector_size(2 * lanes)));

Vec splat(float value) { return Vec{} + value; }
Words splat(uint32_t bits) { return Words{} + bits; }

// Vectors of a dtype in memory. A NaN is packed as the canonical one.
struct VecF32 {
  using Element = F32;
  using Packed = Words;
  static Vec unpack(Packed bits) { return reinterpret_cast<Vec>(bits); }
  static Packed pack(Vec v) { return v != v ? splat(0x7fc00000u) : reinterpret_cast<Words>(v); }
};

struct VecBf16 {
  using Element = Bf16;
  using Packed = Halves;
  static Vec unpack(Packed bits) {
#if defined(__AVX2__)
    return reinterpret_cast<Vec>(
        _mm256_slli_epi32(_mm256_cvtepu16_epi32(reinterpret_cast<__m128i>(bits)), 16));
#else
    return reinterpret_cast<Vec>(__builtin_convertvector(bits, Words) << 16);
#endif
  }
  static Packed pack(Vec v) {
    const Words bits = reinterpret_cast<Words>(v);
    const Words rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return __builtin_convertvector(v != v ? splat(0x7fc0u) : rounded, Halves);
  }
};

struct VecF16 {
  using Element = F16;
  using Packed = Halves;
#if defined(__F16C__)
  static Vec unpack(Packed bits) { return _mm256_cvtph_ps(reinterpret_cast<__m128i>(bits)); }
  static Packed pack(Vec v) {
    // The conversion keeps a NaN's payload; a quiet NaN of zero payload converts to the canonical one.
    const Vec quiet = VecF32::unpack(VecF32::pack(v));
    return reinterpret_cast<Halves>(_mm256_cvtps_ph(quiet, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
#else
  static Vec unpack(Packed bits) {
    Vec v;
    for (size_t i = 0; i < lanes; i++) v[i] = decodeF16(bits[i]);
    return v;
  }
  static Packed pack(Vec v) {
    Packed bits;
    for (size_t i = 0; i < lanes; i++) bits[i] = encodeF16(v[i]);
    return bits;
  }
#endif
};

template <class V>
Vec load(const uint8_t *from) {
  typename V::Packed bits;
  std::memcpy(&bits, from, sizeof bits);
  return V::unpack(bits);
}

// `nonTemporal`: past the caches, where the processor kind can; the place is aligned then.
template <class V>
void store(uint8_t *to, Vec v, [[maybe_unused]] bool nonTemporal) {
  const typename V::Packed bits = V::pack(v);
#if defined(__AVX2__)
  if (nonTemporal) {
    if constexpr (sizeof bits == 32) {
      _mm256_stream_si256(reinterpret_cast<__m256i *>(to), reinterpret_cast<__m256i>(bits));
    } else {
      _mm_stream_si128(reinterpret_cast<__m128i *>(to), reinterpret_cast<__m128i>(bits));
    }
    return;
  }
#endif
  std::memcpy(to, &bits, sizeof bits);
}

// Elements that are summed in registers at a time: eight accumulators of eight.
constexpr size_t blockVectors = 8;

// How far ahead of the sum rows are fetched, in bytes. A token's rows lie in as many pages, and the
// processor's prefetching starts again in each of them.
constexpr size_t aheadBytes = 1024;
constexpr size_t lineBytes = 64;

template <class V, Tree tree, bool weighted>
void combineBlock(uint8_t *out, const Term *terms, size_t count, size_t at, size_t ahead, bool nonTemporal) {
  constexpr size_t size = V::Element::bytes;
  Vec sum[blockVectors] = {};
  Vec total[blockVectors] = {};
  for (size_t t = 0; t < count; t++) {
    const uint8_t *row = terms[t].row + at * size;
    for (size_t line = 0; line < blockVectors * lanes * size; line += lineBytes) {
      __builtin_prefetch(row + ahead + line);
    }
    const Vec weight = splat(weighted ? terms[t].weight : 0.0f);
    for (size_t v = 0; v < blockVectors; v++) {
      const Vec value = load<V>(row + v * lanes * size);
      sum[v] += weighted ? weight * value : value;
    }
    if (tree == Tree::none || !terms[t].closesNode) continue;
    for (size_t v = 0; v < blockVectors; v++) {
      total[v] += tree == Tree::rounded ? V::unpack(V::pack(sum[v])) : sum[v];
      sum[v] = Vec{};
    }
  }
  const Vec *result = tree == Tree::none ? sum : total;
  for (size_t v = 0; v < blockVectors; v++) {
    store<V>(out + (at + v * lanes) * size, result[v], nonTemporal);
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
  const Vec factor = splat(weight);
  size_t at = 0;
  for (; at + lanes <= elements; at += lanes) {
    store<V>(out + at * E::bytes, load<V>(row + at * E::bytes) * factor, false);
  }
  for (; at < elements; at++) E::store(out + at * E::bytes, E::load(row + at * E::bytes) * weight);
}

template <class V>
float dotRow(const uint8_t *a, const uint8_t *b, size_t elements) {
  using E = typename V::Element;
  constexpr size_t width = dotLanes;
  Vec sum[width / lanes] = {};
  size_t at = 0;
  for (; at + width <= elements; at += width) {
    for (size_t v = 0; v < width / lanes; v++) {
      const size_t from = (at + v * lanes) * E::bytes;
      sum[v] += load<V>(a + from) * load<V>(b + from);
    }
  }
  float lane[width];
  std::memcpy(lane, sum, sizeof lane);
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

#if defined(__AVX2__)
void streamOne(uint8_t *to, const uint8_t *from, size_t bytes) {
  // Streaming stores need aligned places, and pay by whole cache lines.
  const size_t gap = (64 - reinterpret_cast<uintptr_t>(to) % 64) % 64;
  const size_t head = gap < bytes ? gap : bytes;
  std::memcpy(to, from, head);
  size_t at = head;
  for (; at + 64 <= bytes; at += 64) {
    const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(from + at));
    const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(from + at + 32));
    _mm256_stream_si256(reinterpret_cast<__m256i *>(to + at), a);
    _mm256_stream_si256(reinterpret_cast<__m256i *>(to + at + 32), b);
  }
  std::memcpy(to + at, from + at, bytes - at);
}

void copyRowNonTemporal(const uint8_t *row, uint8_t *const *places, size_t count, size_t bytes) {
  for (size_t i = 0; i < count; i++) streamOne(places[i], row, bytes);
}

void fence() { _mm_sfence(); }
#else
constexpr auto copyRowNonTemporal = copyRow;
void fence() {}
#endif

template <class V>
constexpr Arithmetic arithmeticOf() {
  return {{{combineRow<V, Tree::none, false>, combineRow<V, Tree::none, true>},
           {combineRow<V, Tree::kept, false>, combineRow<V, Tree::kept, true>},
           {combineRow<V, Tree::rounded, false>, combineRow<V, Tree::rounded, true>}},
          scaleRow<V>,
          dotRow<V>};
}

constexpr Kernels kernelsNamed(const char *name) {
  return {name,
          copyRow,
          copyRowNonTemporal,
          fence,
          arithmeticOf<VecF32>(),
          arithmeticOf<VecF16>(),
          arithmeticOf<VecBf16>()};
}

}  // namespace
}  // namespace fusco
