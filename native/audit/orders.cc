#include "orders.hpp"

#include <algorithm>
#include <iterator>
#include <numeric>
#include <tuple>

namespace fusco::audit {

namespace {

enum class By { k, reverse, expert };
enum class Product {
  separate,  // rounded to float32, then added
  fused,     // added without being rounded
  rounded    // rounded to the dtype of the rows, then added
};

struct Order {
  const char *name;
  By by = By::k;
  Product product = Product::separate;
  bool byNode = false;         // a partial sum per node,
  bool byRank = false;         // per rank (inside a node, with both),
  bool roundsPartial = false;  // rounded to the dtype of the rows
  bool roundsSum = false;      // every addition is rounded to the dtype of the rows
  bool inPairs = false;        // neighbors are added, then neighboring sums
};

// docs/audit.md describes them.
const Order orders[] = {
    {.name = "k"},
    {.name = "k-fused", .product = Product::fused},
    {.name = "k-reverse", .by = By::reverse},
    {.name = "k-products-rounded", .product = Product::rounded},
    {.name = "k-rounded", .product = Product::rounded, .roundsSum = true},
    {.name = "k-pairs", .inPairs = true},
    {.name = "expert", .by = By::expert},
    {.name = "expert-rounded", .by = By::expert, .product = Product::rounded, .roundsSum = true},
    {.name = "rank", .byRank = true},
    {.name = "rank-rounded", .byRank = true, .roundsPartial = true},
    {.name = "rank-fused-rounded", .product = Product::fused, .byRank = true, .roundsPartial = true},
    {.name = "node", .byNode = true},
    {.name = "node-rounded", .byNode = true, .roundsPartial = true},
    {.name = "node-rank", .byNode = true, .byRank = true},
    {.name = "node-rank-rounded", .byNode = true, .byRank = true, .roundsPartial = true},
};

// Terms in the order in which they are added.
std::vector<size_t> sequenceOf(const Order &order, const std::vector<Term> &terms) {
  std::vector<size_t> sequence(terms.size());
  std::iota(sequence.begin(), sequence.end(), size_t{0});
  const auto key = [&](size_t index) {
    const Term &term = terms[index];
    const uint32_t last = order.by == By::k         ? term.k
                          : order.by == By::reverse ? UINT32_MAX - term.k
                                                    : term.expert;
    return std::tuple(order.byNode ? term.node : 0, order.byRank ? term.rank : 0, last);
  };
  std::stable_sort(sequence.begin(), sequence.end(), [&](size_t a, size_t b) { return key(a) < key(b); });
  return sequence;
}

class Adder {
 public:
  Adder(const Order &order, const Numbers &numbers, const TermChunk &chunk)
      : order_(order), numbers_(numbers), chunk_(chunk) {}

  void add(float *sums) {
    const std::vector<Term> &terms = *chunk_.terms;
    const std::vector<size_t> sequence = sequenceOf(order_, terms);
    std::vector<float> rank(chunk_.count), node(chunk_.count);
    std::fill_n(sums, chunk_.count, 0.0f);
    float *const outer = order_.byNode ? node.data() : sums;
    float *const inner = order_.byRank ? rank.data() : outer;
    for (size_t i = 0; i < sequence.size(); i++) {
      const Term &term = terms[sequence[i]];
      addTerm(inner, sequence[i], term.weight);
      const Term *next = i + 1 < sequence.size() ? &terms[sequence[i + 1]] : nullptr;
      const bool closesNode = next == nullptr || next->node != term.node;
      if (order_.byRank && (next == nullptr || next->rank != term.rank)) close(rank.data(), outer);
      if (order_.byNode && closesNode) close(node.data(), sums);
    }
  }

  void addInPairs(float *sums) {
    const std::vector<Term> &terms = *chunk_.terms;
    std::vector<std::vector<float>> level(terms.size(), std::vector<float>(chunk_.count));
    for (size_t i = 0; i < terms.size(); i++) addTerm(level[i].data(), i, terms[i].weight);
    while (level.size() > 1) {
      std::vector<std::vector<float>> above;
      for (size_t i = 0; i < level.size(); i += 2) {
        if (i + 1 < level.size()) accumulate(level[i].data(), level[i + 1].data());
        above.push_back(std::move(level[i]));
      }
      level = std::move(above);
    }
    if (level.empty()) level.emplace_back(chunk_.count);
    std::copy(level[0].begin(), level[0].end(), sums);
  }

 private:
  float rounded(float value) const { return roundedTo(numbers_, value); }

  void addTerm(float *sum, size_t index, float weight) const {
    const float *values = chunk_.of(index);
    if (!chunk_.isWeighted) return accumulate(sum, values);
    for (uint64_t i = 0; i < chunk_.count; i++) {
      if (order_.product == Product::fused) {
        sum[i] = std::fma(values[i], weight, sum[i]);
        continue;
      }
      const float product = values[i] * weight;
      sum[i] += order_.product == Product::rounded ? rounded(product) : product;
      if (order_.roundsSum) sum[i] = rounded(sum[i]);
    }
  }

  void accumulate(float *sum, const float *values) const {
    for (uint64_t i = 0; i < chunk_.count; i++) sum[i] += values[i];
    if (!order_.roundsSum) return;
    for (uint64_t i = 0; i < chunk_.count; i++) sum[i] = rounded(sum[i]);
  }

  // Adds a partial sum to the level above, and starts the next one.
  void close(float *partial, float *above) const {
    for (uint64_t i = 0; i < chunk_.count; i++) {
      above[i] += order_.roundsPartial ? rounded(partial[i]) : partial[i];
      partial[i] = 0;
    }
  }

  const Order &order_;
  const Numbers &numbers_;
  const TermChunk &chunk_;
};

}  // namespace

void TermChunk::load(const Numbers &numbers, const std::vector<Term> &from, bool weighted, uint64_t begin,
                     uint64_t elements) {
  terms = &from;
  isWeighted = weighted;
  count = elements;
  values.resize(from.size() * chunkElements);
  for (size_t term = 0; term < from.size(); term++) {
    const uint8_t *row = from[term].row + begin * numbers.bytes;
    float *to = values.data() + term * chunkElements;
    for (uint64_t i = 0; i < elements; i++) to[i] = numbers.load(row + i * numbers.bytes);
  }
}

const char *orderName(uint32_t index) { return index < std::size(orders) ? orders[index].name : nullptr; }

uint32_t orderCount() { return std::size(orders); }

void addInOrder(uint32_t order, const Numbers &numbers, const TermChunk &chunk, float *sums) {
  Adder adder(orders[order], numbers, chunk);
  if (orders[order].inPairs) return adder.addInPairs(sums);
  adder.add(sums);
}

}  // namespace fusco::audit
