// How far a sum can be from the exact one, whatever the order of its additions.
#pragma once

#include "numbers.hpp"
#include "orders.hpp"

namespace fusco::audit {

// What happens between the operands and the result.
struct SumRules {
  bool accumulatesRounded;  // products and sums are rounded to the dtype of the rows, not to float32
  uint32_t partials;        // partial sums on a path that are rounded to the dtype of the rows
};

// A bound for sums of `terms` terms. Let S be the exact sum of the exact products and A that of their
// magnitudes. On its way a product is rounded once (if weighted), takes part in at most terms - 1 additions,
// each rounded with relative error u, and in `partials` roundings of relative error v. Every factor is at
// most (1 + u) or (1 + v), so the sum is off by at most A ((1 + u)^c (1 + v)^p - 1), c = terms - 1 +
// weighted. Products and partial sums may be subnormal, where rounding has an absolute error; additions are
// exact there. The last rounding adds v (|S| + error). S and A are computed in float64, in which products of
// float32 are exact; the error of that is added.
class SumBound {
 public:
  SumBound(const Numbers &numbers, const SumRules &rules, size_t terms, bool isWeighted);

  // Most that a result may differ from S.
  double errorOf(double sum, double magnitude) const;
  // Whether a result is possible. NaN and infinities must follow from the operands, or from an overflow
  // that some order has.
  bool allows(float found, double sum, double magnitude) const;

 private:
  double growth_;    // (1 + u)^c (1 + v)^p - 1
  double absolute_;  // of subnormal products and partial sums
  double summing_;   // relative error of S and A in float64
  double overflow_;  // an intermediate sum of this magnitude may be infinite
  Precision last_;
};

// Exact sums of a chunk, as far as float64 holds them.
struct ExactSums {
  double sum[chunkElements];
  double magnitude[chunkElements];

  void add(const TermChunk &chunk);
};

}  // namespace fusco::audit
