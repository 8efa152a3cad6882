// AVX2 and F16C. This file alone is compiled for them, and reached only after the processor was asked.

#include <immintrin.h>

#include "arithmetic.hpp"

namespace fusco {
namespace {

struct Base {
  using Vec = __m256;
  static Vec zero() { return _mm256_setzero_ps(); }
  static Vec splat(float value) { return _mm256_set1_ps(value); }
  static Vec add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
  static Vec mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
  static void spill(float *to, Vec v) { _mm256_storeu_ps(to, v); }
  static __m256i isNan(Vec v) { return _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q)); }
  static void put(uint8_t *to, __m256i v, bool nonTemporal) {
    if (nonTemporal) {
      _mm256_stream_si256(reinterpret_cast<__m256i *>(to), v);
    } else {
      _mm256_storeu_si256(reinterpret_cast<__m256i *>(to), v);
    }
  }
};

struct VecF32 : Base {
  using Element = F32;
  static Vec load(const uint8_t *from) { return _mm256_loadu_ps(reinterpret_cast<const float *>(from)); }
  static __m256i encode(Vec v) {
    return _mm256_blendv_epi8(_mm256_castps_si256(v), _mm256_set1_epi32(0x7fc00000), isNan(v));
  }
  static Vec round(Vec v) { return v; }
  static void store2(uint8_t *to, Vec a, Vec b, bool nonTemporal) {
    put(to, encode(a), nonTemporal);
    put(to + 32, encode(b), nonTemporal);
  }
};

struct VecBf16 : Base {
  using Element = Bf16;
  static Vec load(const uint8_t *from) {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i *>(from));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
  }
  static __m256i encode(Vec v) {
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i sum = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    return _mm256_blendv_epi8(_mm256_srli_epi32(sum, 16), _mm256_set1_epi32(0x7fc0), isNan(v));
  }
  static Vec round(Vec v) { return _mm256_castsi256_ps(_mm256_slli_epi32(encode(v), 16)); }
  static void store2(uint8_t *to, Vec a, Vec b, bool nonTemporal) {
    // Packing works inside 128-bit halves; the permutation puts the quarters back in order.
    const __m256i packed = _mm256_packus_epi32(encode(a), encode(b));
    put(to, _mm256_permute4x64_epi64(packed, 0xd8), nonTemporal);
  }
};

struct VecF16 : Base {
  using Element = F16;
  static Vec load(const uint8_t *from) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(from)));
  }
  static __m128i encode(Vec v) {
    // The conversion keeps a NaN's payload; a quiet NaN of zero payload converts to the canonical one.
    const Vec quiet = _mm256_blendv_ps(v, _mm256_castsi256_ps(_mm256_set1_epi32(0x7fc00000)),
                                       _mm256_castsi256_ps(isNan(v)));
    return _mm256_cvtps_ph(quiet, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  static Vec round(Vec v) { return _mm256_cvtph_ps(encode(v)); }
  static void store2(uint8_t *to, Vec a, Vec b, bool nonTemporal) {
    put(to, _mm256_set_m128i(encode(b), encode(a)), nonTemporal);
  }
};

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

}  // namespace

const Kernels avx2Kernels = {
    "avx2",
    copyRow,
    copyRowNonTemporal,
    fence,
    arithmeticOf<VecF32>(),
    arithmeticOf<VecF16>(),
    arithmeticOf<VecBf16>(),
};

}  // namespace fusco
