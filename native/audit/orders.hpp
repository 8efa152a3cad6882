// Orders of addition, and what each of them gives.
#pragma once

#include <vector>

#include "numbers.hpp"

namespace fusco::audit {

// One row that a token's sum adds.
struct Term {
  const uint8_t *row;
  float weight;
  uint32_t k;
  uint32_t expert;
  uint32_t rank;
  uint32_t node;
};

// Elements that are computed at a time.
constexpr uint64_t chunkElements = 256;

// The elements [begin, begin + count) of a token's terms.
struct TermChunk {
  const std::vector<Term> *terms;
  bool isWeighted;
  uint64_t count;
  std::vector<float> values;  // [terms, chunkElements]

  // Decodes; `begin` and `count` are elements.
  void load(const Numbers &numbers, const std::vector<Term> &from, bool weighted, uint64_t begin,
            uint64_t elements);
  const float *of(size_t term) const { return values.data() + term * chunkElements; }
};

// Null behind the last one.
const char *orderName(uint32_t index);
uint32_t orderCount();

// An addition: of a term, and of the partial sums that end with it.
struct Addition {
  size_t term;
  bool closesRank;
  bool closesNode;
};

// The additions of a token's terms in an order.
std::vector<Addition> additionsOf(uint32_t order, const std::vector<Term> &terms);

// Adds chunks of a token's terms. Keeps the memory of partial sums.
class Adder {
 public:
  // The sums of a chunk, before the last rounding: [chunk.count].
  void add(uint32_t order, const std::vector<Addition> &additions, const Numbers &numbers,
           const TermChunk &chunk, float *sums);

 private:
  using Values = std::vector<float>;
  Values rank_ = Values(chunkElements), node_ = Values(chunkElements), product_ = Values(chunkElements);
  std::vector<Values> level_;  // of sums in pairs
};

}  // namespace fusco::audit
