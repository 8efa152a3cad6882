// Combined rows against what can come out of their operands.
#include <algorithm>
#include <cstring>

#include "bounds.hpp"
#include "operands.hpp"

namespace fusco::audit {

namespace {

// How a row relates to the bound of a sum.
struct Fit {
  bool isWithin = true;
  uint64_t firstWrong = 0;  // element
  uint64_t endWrong = 0;
  uint64_t wrong = 0;
  double largest = 0;  // error as a part of the bound
};

// Rows that are compared with the sums of all tokens in vain; further ones only with the likely one.
constexpr uint32_t mostSearches = 256;

class CombineAudit {
 public:
  CombineAudit(Audit &audit, const fusco_audit_combine_call &call)
      : audit_(audit),
        call_(call),
        numbers_(audit.numbers()),
        operands_(audit, call),
        findings_(call.differences, call.difference_count),
        tokens_(audit.entries().tokens(call.rank)),
        elements_(audit.rowBytes() / numbers_.bytes),
        rules_{audit.layout().accumulate != FUSCO_DTYPE_F32, audit.layout().partials},
        alive_((uint64_t{1} << orderCount()) - 1) {}

  fusco_audit_report run() {
    findings_.look(tokens_);
    for (uint32_t token = 0; token < tokens_; token++) {
      const Sum sum = operands_.of(token);
      uint64_t orders = alive_;
      const Fit fit = compare(token, sum, rules_, orders);
      if (!fit.isWithin) {
        findings_.add(classify(token, sum, fit));
        continue;
      }
      findings_.report.largest_error = std::max(findings_.report.largest_error, fit.largest);
      if (call_.order != 0 && !givesBits(token, sum)) addReordered(token);
      alive_ &= orders;
    }
    fusco_audit_report &report = findings_.report;
    const bool hasNoneWithin = report.wrong - report.reordered == tokens_;
    report.orders = hasNoneWithin ? 0 : alive_;
    return report;
  }

 private:
  const uint8_t *found(uint32_t token) const {
    return static_cast<const uint8_t *>(call_.combined.data) + token * audit_.rowBytes();
  }

  // Compares a row with the bound of a sum, and takes the orders that do not give its bits out of `orders`.
  Fit compare(uint32_t token, const Sum &sum, const SumRules &rules, uint64_t &orders) {
    const SumBound bound(numbers_, rules, sum.terms.size(), sum.isWeighted);
    Fit fit;
    for (uint32_t order = 0; order < orderCount(); order++) {
      if ((orders >> order & 1) != 0) additions_[order] = additionsOf(order, sum.terms);
    }
    for (uint64_t begin = 0; begin < elements_; begin += chunkElements) {
      const uint64_t count = std::min(chunkElements, elements_ - begin);
      chunk_.load(numbers_, sum.terms, sum.isWeighted, begin, count);
      exact_.add(chunk_);
      const uint8_t *row = found(token) + begin * numbers_.bytes;
      float values[chunkElements];
      numbers_.loadAll(row, values, count);
      for (uint64_t i = 0; i < count; i++) compareElement(bound, values[i], i, begin + i, fit);
      for (uint32_t order = 0; order < orderCount() && fit.isWithin; order++) {
        if ((orders >> order & 1) != 0 && !hasBits(order, row)) orders &= ~(uint64_t{1} << order);
      }
    }
    return fit;
  }

  // `at` is the element in exact_, `element` that of the row.
  void compareElement(const SumBound &bound, float value, uint64_t at, uint64_t element, Fit &fit) const {
    const double sum = exact_.sum[at], magnitude = exact_.magnitude[at];
    if (value == sum) return;
    if (bound.allows(value, sum, magnitude)) {
      const double error = std::abs(value - sum);
      if (!std::isfinite(error)) return;
      fit.largest = std::max(fit.largest, std::min(1.0, error / bound.errorOf(sum, magnitude)));
      return;
    }
    if (fit.isWithin) fit.firstWrong = element;
    fit.isWithin = false;
    fit.endWrong = element + 1;
    fit.wrong++;
  }

  // Whether an order gives the bits of the elements in chunk_.
  bool hasBits(uint32_t order, const uint8_t *row) {
    float sums[chunkElements];
    uint8_t bits[chunkElements * sizeof(float)];
    adder_.add(order, additions_[order], numbers_, chunk_, sums);
    numbers_.storeAll(sums, bits, chunk_.count);
    if (std::memcmp(bits, row, chunk_.count * numbers_.bytes) == 0) return true;
    for (uint64_t at = 0; at < chunk_.count * numbers_.bytes; at += numbers_.bytes) {
      if (std::memcmp(bits + at, row + at, numbers_.bytes) == 0) continue;
      const float value = numbers_.load(row + at), wanted = numbers_.load(bits + at);
      const bool areZero = value == 0 && wanted == 0;
      if (!areZero && !(std::isnan(value) && std::isnan(wanted))) return false;
    }
    return true;
  }

  bool givesBits(uint32_t token, const Sum &sum) {
    uint64_t only = uint64_t{1} << (call_.order - 1);
    compare(token, sum, rules_, only);
    return only != 0;
  }

  void addReordered(uint32_t token) {
    fusco_audit_difference difference = differenceOf(token);
    difference.kind = FUSCO_AUDIT_ROUNDING;
    findings_.report.reordered++;
    findings_.add(difference);
  }

  fusco_audit_difference differenceOf(uint32_t token) const {
    const Origin origin{static_cast<int32_t>(call_.rank), static_cast<int32_t>(token), -1};
    return differenceAt(token, origin, audit_.rowBytes());
  }

  // Whether a row can be a sum; looks at the first elements first.
  bool fits(uint32_t token, const Sum &sum, const SumRules &rules) {
    constexpr uint64_t few = 8;
    const SumBound bound(numbers_, rules, sum.terms.size(), sum.isWeighted);
    const uint64_t count = std::min(few, elements_);
    chunk_.load(numbers_, sum.terms, sum.isWeighted, 0, count);
    exact_.add(chunk_);
    for (uint64_t i = 0; i < count; i++) {
      const float value = numbers_.load(found(token) + i * numbers_.bytes);
      if (!bound.allows(value, exact_.sum[i], exact_.magnitude[i])) return false;
    }
    uint64_t none = 0;
    return compare(token, sum, rules, none).isWithin;
  }

  // Explanations, the most specific one first.
  fusco_audit_difference classify(uint32_t token, const Sum &sum, const Fit &fit) {
    fusco_audit_difference difference = differenceOf(token);
    difference.first_byte = fit.firstWrong * numbers_.bytes;
    difference.end_byte = fit.endWrong * numbers_.bytes;
    if (isZeros(token)) {
      difference.kind = FUSCO_AUDIT_ZEROS;
      difference.found = FUSCO_AUDIT_FOUND_ZEROS;
    } else if (hasNan(token, sum)) {
      difference.kind = FUSCO_AUDIT_NAN;
    } else if (!isOtherTerms(difference, token, sum) && !isOtherToken(difference, token) &&
               !isStale(difference, token)) {
      classifyValues(difference, token, sum, fit);
    }
    return difference;
  }

  bool isZeros(uint32_t token) const {
    for (uint64_t i = 0; i < elements_; i++) {
      if (numbers_.load(found(token) + i * numbers_.bytes) != 0) return false;
    }
    return true;
  }

  // A NaN where no operand is one; infinite operands may cancel.
  bool hasNan(uint32_t token, const Sum &sum) const {
    for (uint64_t at = 0; at < audit_.rowBytes(); at += numbers_.bytes) {
      if (!std::isnan(numbers_.load(found(token) + at))) continue;
      const bool isFinite = std::all_of(sum.terms.begin(), sum.terms.end(), [&](const Term &term) {
        return std::isfinite(numbers_.load(term.row + at)) && std::isfinite(term.weight);
      });
      if (isFinite) return true;
    }
    return false;
  }

  // The sum without one term, with one term twice, or without weights.
  bool isOtherTerms(fusco_audit_difference &difference, uint32_t token, const Sum &sum) {
    for (size_t i = 0; i < sum.terms.size(); i++) {
      Sum other = sum;
      other.terms.erase(other.terms.begin() + static_cast<ptrdiff_t>(i));
      const bool isMissing = fits(token, other, rules_);
      other.terms = sum.terms;
      other.terms.insert(other.terms.begin() + static_cast<ptrdiff_t>(i), sum.terms[i]);
      if (!isMissing && !fits(token, other, rules_)) continue;
      difference.kind = isMissing ? FUSCO_AUDIT_TERM_MISSING : FUSCO_AUDIT_TERM_TWICE;
      difference.k = static_cast<int32_t>(sum.terms[i].k);
      return true;
    }
    if (!sum.isWeighted || !fits(token, {sum.terms, false}, rules_)) return false;
    difference.kind = FUSCO_AUDIT_UNWEIGHTED;
    return true;
  }

  // The sum of another token of this rank. Rows are often displaced by the same distance.
  bool isOtherToken(fusco_audit_difference &difference, uint32_t token) {
    const uint32_t guess = token + distance_;
    uint32_t other = guess;
    const bool isGuess = guess < tokens_ && guess != token && fits(token, operands_.of(guess), rules_);
    if (!isGuess && fruitless_ == mostSearches) return false;
    for (uint32_t candidate = 0; !isGuess; candidate++) {
      if (candidate == tokens_) {
        fruitless_++;
        return false;
      }
      other = candidate;
      const Sum sum = operands_.of(candidate);
      if (candidate != token && !sum.terms.empty() && fits(token, sum, rules_)) break;
    }
    distance_ = other - token;
    difference.kind = FUSCO_AUDIT_OTHER_TOKEN;
    recognize(difference, FUSCO_AUDIT_FOUND_TOKEN, TokenId{call_.rank, other});
    return true;
  }

  // The token's row of the step before, times any factor: that step's weights are not known.
  bool isStale(fusco_audit_difference &difference, uint32_t token) {
    const uint8_t *row = operands_.hasOutputs() ? nullptr : audit_.previousRow(call_.rank, token);
    if (row == nullptr) return false;
    const Sum previous{{{row, 1, 0, 0, 0, 0}}, false};
    if (!factorOf(token, previous, topkRules()).has_value()) return false;
    difference.kind = FUSCO_AUDIT_STALE;
    recognize(difference, FUSCO_AUDIT_FOUND_PREVIOUS, TokenId{call_.rank, token});
    return true;
  }

  // Rules as wide as those of a sum of topk weighted terms.
  SumRules topkRules() const { return {rules_.accumulatesRounded, rules_.partials + 1}; }

  void classifyValues(fusco_audit_difference &difference, uint32_t token, const Sum &sum, const Fit &fit) {
    if (fits(token, sum, {true, std::max(rules_.partials, 1u) + 1})) {
      difference.kind = FUSCO_AUDIT_ROUNDING;
      return;
    }
    const uint64_t span = fit.endWrong - fit.firstWrong;
    const bool isPart =
        span >= 2 && 8 * (elements_ - span) >= elements_ && 2 * fit.wrong >= span && 8 * span >= elements_;
    if (isPart) {
      difference.kind = FUSCO_AUDIT_PARTIAL;
      if (isZero(found(token) + difference.first_byte, span * numbers_.bytes)) {
        difference.found = FUSCO_AUDIT_FOUND_ZEROS;
      }
      return;
    }
    if (const auto factor = factorOf(token, sum, rules_)) {
      difference.kind = FUSCO_AUDIT_SCALED;
      difference.factor = *factor;
    }
  }

  // The factor by which all elements of a row are those of a sum, within twice the bound.
  std::optional<double> factorOf(uint32_t token, const Sum &sum, const SumRules &rules) {
    const SumBound bound(numbers_, rules, sum.terms.size(), sum.isWeighted);
    std::vector<double> sums(elements_), errors(elements_);
    for (uint64_t begin = 0; begin < elements_; begin += chunkElements) {
      const uint64_t count = std::min(chunkElements, elements_ - begin);
      chunk_.load(numbers_, sum.terms, sum.isWeighted, begin, count);
      exact_.add(chunk_);
      for (uint64_t i = 0; i < count; i++) {
        sums[begin + i] = exact_.sum[i];
        errors[begin + i] = bound.errorOf(exact_.sum[i], exact_.magnitude[i]);
      }
    }
    const auto pivot =
        static_cast<uint64_t>(std::max_element(sums.begin(), sums.end(),
                                               [](double a, double b) { return std::abs(a) < std::abs(b); }) -
                              sums.begin());
    // One element is a multiple of any other.
    if (elements_ < 2 || sums[pivot] == 0) return std::nullopt;
    const double factor = numbers_.load(found(token) + pivot * numbers_.bytes) / sums[pivot];
    const double pivotError = errors[pivot] / std::abs(sums[pivot]);
    if (!std::isfinite(factor) || factor == 0) return std::nullopt;
    for (uint64_t i = 0; i < elements_; i++) {
      const double error = std::abs(numbers_.load(found(token) + i * numbers_.bytes) - factor * sums[i]);
      const double most = 2 * std::abs(factor) * (errors[i] + std::abs(sums[i]) * pivotError);
      if (!(error <= most + numbers_.precision.tiny)) return std::nullopt;
    }
    return factor;
  }

  Audit &audit_;
  const fusco_audit_combine_call &call_;
  const Numbers &numbers_;
  const Operands operands_;
  Findings findings_;
  uint32_t tokens_;
  uint64_t elements_;
  SumRules rules_;
  uint64_t alive_;          // orders that have given the bits of every row so far
  uint32_t distance_ = 0;   // of the last row that was that of another token
  uint32_t fruitless_ = 0;  // searches of all tokens
  TermChunk chunk_;
  ExactSums exact_;
  Adder adder_;
  std::vector<std::vector<Addition>> additions_ = std::vector<std::vector<Addition>>(orderCount());
};

}  // namespace

fusco_audit_report auditCombine(Audit &audit, const fusco_audit_combine_call &call) {
  audit.needInput();
  if (call.rank >= audit.entries().ranks()) {
    throw Failure(FUSCO_E_OPTION, "rank %u: there are %u ranks", call.rank, audit.entries().ranks());
  }
  if (!audit.numbers().areNumbers()) {
    throw Failure(FUSCO_E_DTYPE, "rows that are not f32, f16 or bf16 cannot be added");
  }
  if (call.order > orderCount())
    throw Failure(FUSCO_E_OPTION, "there is no order of addition %u", call.order);
  const uint64_t wanted = audit.entries().tokens(call.rank) * audit.rowBytes();
  if (call.combined.bytes < wanted || (wanted > 0 && call.combined.data == nullptr)) {
    throw Failure(FUSCO_E_BUFFER, "the combined rows of rank %u have %llu bytes < %llu", call.rank,
                  call.combined.bytes, wanted)
        .atRank(call.rank)
        .limited(call.combined.bytes, wanted);
  }
  return CombineAudit(audit, call).run();
}

}  // namespace fusco::audit
