#include "orders.hpp"

#include <algorithm>
#include <iterator>
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

// One order over one chunk.
class OrderedSum {
 public:
  OrderedSum(const Order &order, const Numbers &numbers, const TermChunk &chunk, float *product)
      : order_(order), numbers_(numbers), chunk_(chunk), product_(product) {}

  void addTerm(float *sum, size_t index) const {
    const float *values = chunk_.of(index);
    if (!chunk_.isWeighted) return accumulate(sum, values);
    const float weight = (*chunk_.terms)[index].weight;
    if (order_.product == Product::fused) {
      for (uint64_t i = 0; i < chunk_.count; i++) sum[i] = std::fma(values[i], weight, sum[i]);
      return;
    }
    for (uint64_t i = 0; i < chunk_.count; i++) product_[i] = values[i] * weight;
    if (order_.product == Product::rounded) numbers_.roundAll(product_, chunk_.count);
    accumulate(sum, product_);
  }

  void accumulate(float *sum, const float *values) const {
    for (uint64_t i = 0; i < chunk_.count; i++) sum[i] += values[i];
    if (order_.roundsSum) numbers_.roundAll(sum, chunk_.count);
  }

  // Adds a partial sum to the level above, and starts the next one.
  void close(float *partial, float *above) const {
    if (order_.roundsPartial) numbers_.roundAll(partial, chunk_.count);
    accumulate(above, partial);
    std::fill_n(partial, chunk_.count, 0.0f);
  }

 private:
  const Order &order_;
  const Numbers &numbers_;
  const TermChunk &chunk_;
  float *product_;
};

}  // namespace

void TermChunk::load(const Numbers &numbers, const std::vector<Term> &from, bool weighted, uint64_t begin,
                     uint64_t elements) {
  terms = &from;
  isWeighted = weighted;
  count = elements;
  values.resize(from.size() * chunkElements);
  for (size_t term = 0; term < from.size(); term++) {
    numbers.loadAll(from[term].row + begin * numbers.bytes, values.data() + term * chunkElements, elements);
  }
}

const char *orderName(uint32_t index) { return index < std::size(orders) ? orders[index].name : nullptr; }

uint32_t orderCount() { return std::size(orders); }

std::vector<Addition> additionsOf(uint32_t order, const std::vector<Term> &terms) {
  const Order &of = orders[order];
  std::vector<Addition> additions(terms.size());
  for (size_t i = 0; i < terms.size(); i++) additions[i] = {i, false, false};
  const auto key = [&](const Addition &addition) {
    const Term &term = terms[addition.term];
    const uint32_t last = of.by == By::k ? term.k : of.by == By::reverse ? UINT32_MAX - term.k : term.expert;
    return std::tuple(of.byNode ? term.node : 0, of.byRank ? term.rank : 0, last);
  };
  std::stable_sort(additions.begin(), additions.end(),
                   [&](const Addition &a, const Addition &b) { return key(a) < key(b); });
  for (size_t i = 0; i < additions.size(); i++) {
    const Term *next = i + 1 < additions.size() ? &terms[additions[i + 1].term] : nullptr;
    const Term &term = terms[additions[i].term];
    additions[i].closesRank = of.byRank && (next == nullptr || next->rank != term.rank);
    additions[i].closesNode = of.byNode && (next == nullptr || next->node != term.node);
  }
  return additions;
}

void Adder::add(uint32_t order, const std::vector<Addition> &additions, const Numbers &numbers,
                const TermChunk &chunk, float *sums) {
  const Order &of = orders[order];
  const OrderedSum sum(of, numbers, chunk, product_.data());
  std::fill_n(sums, chunk.count, 0.0f);
  if (!of.inPairs) {
    std::fill_n(rank_.begin(), chunk.count, 0.0f);
    std::fill_n(node_.begin(), chunk.count, 0.0f);
    float *const outer = of.byNode ? node_.data() : sums;
    float *const inner = of.byRank ? rank_.data() : outer;
    for (const Addition &addition : additions) {
      sum.addTerm(inner, addition.term);
      if (addition.closesRank) sum.close(rank_.data(), outer);
      if (addition.closesNode) sum.close(node_.data(), sums);
    }
    return;
  }
  size_t count = additions.size();
  if (level_.size() < count) level_.resize(count, Values(chunkElements));
  for (size_t i = 0; i < count; i++) {
    std::fill_n(level_[i].begin(), chunk.count, 0.0f);
    sum.addTerm(level_[i].data(), additions[i].term);
  }
  for (; count > 1; count = (count + 1) / 2) {
    for (size_t i = 0; i < count; i += 2) {
      if (i + 1 < count) sum.accumulate(level_[i].data(), level_[i + 1].data());
      if (i > 0) level_[i / 2].swap(level_[i]);
    }
  }
  if (count == 1) std::copy_n(level_[0].begin(), chunk.count, sums);
}

}  // namespace fusco::audit
