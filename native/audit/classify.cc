#include "classify.hpp"

#include <algorithm>
#include <cstring>

namespace fusco::audit {

namespace {

// A row counts as rounded if at least this part of its elements differs, and as half wrong if at least this
// part of it is right.
constexpr uint64_t leastPart = 8;
// The fewest significant bits of a format in use: e5m2 has 3.
constexpr int leastBits = 3;
// What a format with a scale for each row rounds small elements to, as a part of the largest element: half
// the smallest subnormal number of e4m3 over its largest number.
constexpr double smallestPart = 0x1p-10 / 448;

// The same without a scale: half the smallest subnormal number of e4m3, in rows that it can hold.
constexpr double smallestError = 0x1p-10;
constexpr double smallestNormal = 0x1p-6;

// Significant bits that explain every error above `small`; 0 if none do.
uint32_t bitsOf(const Numbers &numbers, const uint8_t *found, const uint8_t *expected, uint64_t bytes,
                double small) {
  const double unit = numbers.precision.unit;
  double worst = unit;
  uint64_t different = 0, elements = 0;
  for (uint64_t at = 0; at < bytes; at += numbers.bytes) {
    const double wanted = numbers.load(expected + at);
    const double error = std::abs(numbers.load(found + at) - wanted);
    if (!std::isfinite(error)) return 0;
    elements += wanted != 0;
    different += error != 0;
    // What was rounded to a narrower format is rounded to this one at last.
    const double least = small + 2 * unit * std::abs(wanted);
    if (error <= least) continue;
    if (wanted == 0) return 0;
    worst = std::max(worst, (error - least) / std::abs(wanted));
  }
  if (different * leastPart < elements) return 0;
  // Rounding to the nearest number of p bits changes a number by at most 2^-p of it.
  const int bits = -static_cast<int>(std::ceil(std::log2(worst)));
  return bits < leastBits ? 0 : static_cast<uint32_t>(bits);
}

bool isNanFp8(uint8_t code) { return (code & 0x7f) == 0x7f; }

}  // namespace

uint32_t roundingBits(const Numbers &numbers, const uint8_t *found, const uint8_t *expected, uint64_t bytes) {
  double largest = 0;
  for (uint64_t at = 0; at < bytes; at += numbers.bytes) {
    largest = std::max(largest, std::abs(double{numbers.load(expected + at)}));
  }
  if (!std::isfinite(largest)) return 0;
  const uint32_t scaled = bitsOf(numbers, found, expected, bytes, largest * smallestPart);
  if (scaled != 0 || largest < smallestNormal) return scaled;
  return bitsOf(numbers, found, expected, bytes, smallestError);
}

fusco_audit_difference Classifier::classify(uint64_t row, const uint8_t *found, const Origin &origin) {
  const uint64_t bytes = audit_.rowBytes();
  const uint8_t *expected =
      audit_.row(static_cast<uint32_t>(origin.source), static_cast<uint32_t>(origin.token));
  fusco_audit_difference difference = differenceAt(row, origin, bytes);
  difference.first_byte = static_cast<uint64_t>(std::mismatch(found, found + bytes, expected).first - found);
  while (found[difference.end_byte - 1] == expected[difference.end_byte - 1]) difference.end_byte--;
  if (recognizeWhole(difference, found)) return difference;
  if (hasNewNan(found, expected)) {
    difference.kind = FUSCO_AUDIT_NAN;
    return difference;
  }
  if (audit_.numbers().areNumbers()) {
    difference.precision = roundingBits(audit_.numbers(), found, expected, bytes);
    if (difference.precision != 0) {
      difference.kind = FUSCO_AUDIT_ROUNDING;
      return difference;
    }
  }
  if (isPart(difference, found, expected)) difference.kind = FUSCO_AUDIT_PARTIAL;
  return difference;
}

fusco_audit_difference Classifier::classifyPadding(uint64_t row, const uint8_t *found,
                                                   fusco_audit_kind kind) {
  fusco_audit_difference difference = differenceAt(row, {-1, -1, -1}, audit_.rowBytes());
  recognizeWhole(difference, found);
  difference.kind = kind;
  return difference;
}

// Zeros, the row of another token, or one of the step before.
bool Classifier::recognizeWhole(fusco_audit_difference &difference, const uint8_t *found) {
  if (isZero(found, audit_.rowBytes())) {
    difference.kind = FUSCO_AUDIT_ZEROS;
    recognize(difference, FUSCO_AUDIT_FOUND_ZEROS, std::nullopt);
    return true;
  }
  if (const auto id = audit_.index().find(found)) {
    difference.kind = FUSCO_AUDIT_OTHER_TOKEN;
    recognize(difference, FUSCO_AUDIT_FOUND_TOKEN, id);
    return true;
  }
  const RowIndex *previous = audit_.previousIndex();
  if (previous == nullptr) return false;
  const auto id = previous->find(found);
  if (!id.has_value()) return false;
  difference.kind = FUSCO_AUDIT_STALE;
  recognize(difference, FUSCO_AUDIT_FOUND_PREVIOUS, id);
  return true;
}

// Whether one part of the row is right, and the rest of it something else as a whole.
bool Classifier::isPart(fusco_audit_difference &difference, const uint8_t *found, const uint8_t *expected) {
  const uint64_t bytes = audit_.rowBytes();
  const uint32_t element = audit_.numbers().bytes;
  const uint64_t begin = difference.first_byte / element * element;
  const uint64_t end = (difference.end_byte + element - 1) / element * element;
  if (end - begin < 2 * element || (bytes - (end - begin)) * leastPart < bytes) return false;
  if (isZero(found + begin, end - begin)) {
    recognize(difference, FUSCO_AUDIT_FOUND_ZEROS, std::nullopt);
    return true;
  }
  if (searches_++ < mostSearches) {
    if (const auto id = audit_.index().findPart(found, begin, end)) {
      recognize(difference, FUSCO_AUDIT_FOUND_TOKEN, id);
      return true;
    }
    const RowIndex *previous = audit_.previousIndex();
    if (const auto id = previous == nullptr ? std::nullopt : previous->findPart(found, begin, end)) {
      recognize(difference, FUSCO_AUDIT_FOUND_PREVIOUS, id);
      return true;
    }
  }
  uint64_t different = 0;
  for (uint64_t at = begin; at < end; at += element) {
    different += std::memcmp(found + at, expected + at, element) != 0;
  }
  return (end - begin) * leastPart >= bytes && 2 * different * element >= end - begin;
}

bool Classifier::hasNewNan(const uint8_t *found, const uint8_t *expected) const {
  const Numbers &numbers = audit_.numbers();
  for (uint64_t at = 0; at < audit_.rowBytes(); at += numbers.bytes) {
    if (numbers.areNumbers()) {
      if (std::isnan(numbers.load(found + at)) && !std::isnan(numbers.load(expected + at))) return true;
    } else if (audit_.isFp8() && isNanFp8(found[at]) && !isNanFp8(expected[at])) {
      return true;
    }
  }
  return false;
}

}  // namespace fusco::audit
