#include "bounds.hpp"

#include <algorithm>

namespace fusco::audit {

SumBound::SumBound(const Numbers &numbers, const SumRules &rules, size_t terms, bool isWeighted)
    : last_(numbers.precision) {
  // A processor may compute in float32 and round the result to the narrower dtype: two roundings.
  const Precision adding = rules.accumulatesRounded ? Precision{last_.unit + 2 * precisionF32.unit,
                                                                last_.tiny + precisionF32.tiny, last_.most}
                                                    : precisionF32;
  const double count = static_cast<double>(terms);
  const double roundings = std::max(0.0, count - 1) + (isWeighted ? 1 : 0);
  const double grown =
      std::pow(1 + adding.unit, roundings) * std::pow(1 + last_.unit, static_cast<double>(rules.partials));
  // The last factors are for the roundings of this computation.
  growth_ = (grown - 1) * (1 + 0x1p-20);
  const double products = isWeighted ? adding.tiny : 0;
  absolute_ = count * (products + rules.partials * last_.tiny) * grown * (1 + 0x1p-20);
  summing_ = (count + 1) * 0x1p-52;
  overflow_ = rules.accumulatesRounded || rules.partials > 0 ? last_.most : precisionF32.most;
}

double SumBound::errorOf(double sum, double magnitude) const {
  const double before = magnitude * (growth_ + summing_) + absolute_;
  return (before + last_.unit * (std::abs(sum) + before) + last_.tiny) * (1 + 0x1p-40);
}

bool SumBound::allows(float found, double sum, double magnitude) const {
  if (std::isnan(sum)) return std::isnan(found);
  if (std::isinf(sum)) return found == sum;
  if (magnitude * (1 + growth_) >= overflow_) return true;
  if (std::isnan(found)) return false;
  const double error = errorOf(sum, magnitude);
  if (std::isinf(found))
    return std::abs(sum) + error >= last_.most && std::signbit(found) == std::signbit(sum);
  return std::abs(found - sum) <= error;
}

void ExactSums::add(const TermChunk &chunk) {
  std::fill_n(sum, chunk.count, 0.0);
  std::fill_n(magnitude, chunk.count, 0.0);
  for (size_t term = 0; term < chunk.terms->size(); term++) {
    const float *values = chunk.of(term);
    const double weight = chunk.isWeighted ? (*chunk.terms)[term].weight : 1.0f;
    for (uint64_t i = 0; i < chunk.count; i++) {
      const double product = values[i] * weight;
      sum[i] += product;
      magnitude[i] += std::abs(product);
    }
  }
}

}  // namespace fusco::audit
