#include "header.hpp"

#include <algorithm>
#include <cstring>
#include <initializer_list>

#include "failure.hpp"
#include "plan_layout.h"

namespace fusco::plan_file {

namespace {

constexpr std::string_view magic = "FUSCOPLN";
constexpr uint32_t array16 = 0xdc;
// msgpack's heads of a shard and of its pad.
constexpr uint64_t padHeadBytes = 2;
constexpr uint64_t shardHeadBytes = 5;
// The most maps of `extra` in one another, and bytes of one of its strings.
constexpr int maxExtraDepth = 4;
constexpr size_t maxExtraBytes = 255;
constexpr size_t maxExtraKey = 64;

template <class... Args>
Failure badHeader(const char *path, const char *format, Args... args) {
  return Failure(FUSCO_E_PLAN_HEADER, format, args...).at("%s", path);
}

Failure notCanonical(const char *text) { return Failure(FUSCO_E_PLAN_CANONICAL, "%s", text).at("/header"); }

using Names = std::initializer_list<const char *>;

bool holds(const Names &names, const std::string &name) {
  return std::any_of(names.begin(), names.end(), [&](const char *of) { return name == of; });
}

// A map with all keys of `needed` and perhaps some of `known`.
void checkMap(const Value &value, const char *path, const Names &needed, const Names &known) {
  if (!value.is(Value::Kind::map)) throw badHeader(path, "not a map");
  for (const char *key : needed) {
    if (value.find(key) == nullptr) throw badHeader(path, "key %s is missing", key);
  }
  for (const Value::Pair &pair : value.pairs) {
    if (holds(needed, pair.key) || holds(known, pair.key)) continue;
    throw badHeader(path, "key %.60s is not one of format %d.%d; update fusco if it is newer",
                    pair.key.c_str(), FUSCO_FORMAT_MAJOR, FUSCO_FORMAT_MINOR);
  }
}

bool isExtraKey(const std::string &key) {
  const auto isLetter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
  const auto isOther = [](char c) { return (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-'; };
  return !key.empty() && key.size() <= maxExtraKey && isLetter(key[0]) &&
         std::all_of(key.begin(), key.end(), [&](char c) { return isLetter(c) || isOther(c); });
}

void checkExtra(const Value &value, const std::string &path, int depth) {
  if (!value.is(Value::Kind::map) || value.pairs.empty()) {
    throw badHeader(path.c_str(), "not a map with at least one key");
  }
  if (depth > maxExtraDepth) throw badHeader(path.c_str(), "more than %d maps in one another", maxExtraDepth);
  for (const auto &[key, item] : value.pairs) {
    if (!isExtraKey(key)) {
      throw badHeader(path.c_str(), "a key is not 1 to 64 of A-Z a-z 0-9 . _ - after a letter");
    }
    if (item.is(Value::Kind::map)) {
      checkExtra(item, path + "/" + key, depth + 1);
      continue;
    }
    if (item.is(Value::Kind::array) || item.bytes.size() > maxExtraBytes) {
      throw badHeader(path.c_str(), "%.64s is not an integer of 32 bits, or at most %llu bytes", key.c_str(),
                      maxExtraBytes);
    }
  }
}

constexpr Names coreKeys = {"align",     "balance",  "capacity",   "dtype", "experts",      "groups",
                            "hidden",    "partial",  "placement",  "ranks", "ranksPerNode", "rule",
                            "sliceRows", "strategy", "tileTokens", "topk"};
// Core keys of format 1.1.
constexpr Names minor1Keys = {"combineDtype", "replicas", "sum"};

bool isDigest(const Value &value) {
  return value.is(Value::Kind::binary) && value.bytes.size() == std::tuple_size_v<Digest>;
}

Digest digestOf(const Value &value) {
  Digest digest;
  std::memcpy(digest.data(), value.bytes.data(), digest.size());
  return digest;
}

void checkTypes(const Value &header, uint32_t ranks) {
  checkMap(header, "/header", {"core", "planId", "producer", "reason", "shards"}, {"extra"});
  const Value &core = *header.find("core");
  checkMap(core, "/header/core", coreKeys, minor1Keys);
  if (const Value *extra = header.find("extra"); extra != nullptr) checkExtra(*extra, "/header/extra", 1);
  for (const char *key : {"placement", "groups"}) {
    if (!core.find(key)->is(Value::Kind::array)) {
      throw badHeader((std::string("/header/core/") + key).c_str(), "not an array");
    }
  }
  if (!isDigest(*header.find("planId"))) throw badHeader("/header/planId", "not a digest");
  if (!header.find("producer")->is(Value::Kind::text) || !header.find("reason")->is(Value::Kind::text)) {
    throw badHeader("/header/producer", "not a string");
  }
  const Value &shards = *header.find("shards");
  if (!shards.is(Value::Kind::array) || shards.items.size() != ranks) {
    throw badHeader("/header/shards", "not a list of %u", ranks);
  }
  for (uint32_t rank = 0; rank < ranks; rank++) {
    const Value &entry = shards.items[rank];
    const bool isListed = entry.is(Value::Kind::array) && entry.items.size() == 2 &&
                          entry.items[0].is(Value::Kind::integer) && isDigest(entry.items[1]);
    if (!isListed) {
      throw badHeader(("/header/shards/" + std::to_string(rank)).c_str(), "not [bytes, digest]");
    }
  }
}

// The core's options in the form of the C interface, with the lists that it points to.
class CoreOptions {
 public:
  explicit CoreOptions(const Value &core) : core_(core) {
    options_.experts = number("experts");
    options_.ranks = number("ranks");
    options_.ranks_per_node = number("ranksPerNode");
    options_.topk = number("topk");
    options_.hidden = number("hidden");
    options_.align = number("align");
    options_.capacity = number("capacity");
    options_.slice_rows = number("sliceRows");
    options_.tile_tokens = number("tileTokens");
    // Zero means a default in the C interface, and nothing here.
    for (const uint32_t least :
         {options_.ranks_per_node, options_.hidden, options_.align, options_.slice_rows}) {
      if (least == 0) throw Failure(FUSCO_E_OPTION, "an option that must be at least 1 is 0");
    }
    options_.dtype = dtype("dtype");
    options_.strategy = choice("strategy", {"flat", "hier", "auto"}, FUSCO_STRATEGY_AUTO);
    if (options_.strategy != FUSCO_STRATEGY_FLAT) {
      options_.balance = choice("balance", {"best", "static", "rotate", "lpt"}, FUSCO_BALANCE_LPT);
      options_.partial = choice("partial", {"payload", "f32"}, FUSCO_PARTIAL_F32);
      if (has("sum")) options_.sum = choice("sum", {"node", "token"}, FUSCO_SUM_TOKEN);
    }
    if (has("replicas")) {
      options_.replicas = choice("replicas", {"quota-1", "local"}, FUSCO_REPLICAS_LOCAL);
    }
    readPlacement(*core.find("placement"));
  }

  Spec spec() const {
    Spec spec = planning::makeSpec(options_);
    if (has("combineDtype")) spec.combineDtype = dtype("combineDtype");
    return spec;
  }

 private:
  bool has(const char *key) const { return core_.find(key) != nullptr; }

  uint32_t number(const char *key) const {
    const Value &value = *core_.find(key);
    if (value.is(Value::Kind::integer)) return value.integer;
    throw Failure(FUSCO_E_OPTION, "%s is not an integer", key);
  }

  // The enumeration's value whose name is the key's text; `names` in the order of the enumeration.
  template <class T>
  T choice(const char *key, const Names &names, T) const {
    const Value &value = *core_.find(key);
    int number = 0;
    for (const char *name : names) {
      if (value.is(Value::Kind::text) && value.bytes == name) return static_cast<T>(number);
      number++;
    }
    throw Failure(FUSCO_E_OPTION, "%s has no value of this version", key);
  }
  fusco_dtype dtype(const char *key) const {
    return choice(key, {"bytes", "f32", "f16", "bf16", "fp8"}, FUSCO_DTYPE_FP8);
  }

  void readPlacement(const Value &placement) {
    if (placement.items.empty()) return;
    if (placement.items.size() != options_.experts) {
      throw Failure(FUSCO_E_PLACEMENT, "the placement has %llu entries for %u experts",
                    uint64_t{placement.items.size()}, options_.experts);
    }
    offsets_.push_back(0);
    for (const Value &entry : placement.items) {
      if (entry.is(Value::Kind::array)) {
        for (const Value &rank : entry.items) addRank(rank);
      } else {
        addRank(entry);
      }
      offsets_.push_back(static_cast<uint32_t>(ranks_.size()));
    }
    options_.placement_offsets = offsets_.data();
    options_.placement_ranks = ranks_.data();
  }
  void addRank(const Value &rank) {
    if (!rank.is(Value::Kind::integer) || rank.integer >= options_.ranks || ranks_.size() >= UINT32_MAX) {
      throw Failure(FUSCO_E_PLACEMENT, "a rank of the placement is not in the group");
    }
    ranks_.push_back(static_cast<uint16_t>(rank.integer));
  }

  const Value &core_;
  std::vector<uint32_t> offsets_;
  std::vector<uint16_t> ranks_;
  fusco_plan_options options_ = fusco_sized<fusco_plan_options>();
};

// Rules and groups that fit the strategy: none in flat plans, else each node holds every group once.
Decision readDecision(const Spec &spec, const Value &core) {
  const Value &rule = *core.find("rule");
  const Value &groups = *core.find("groups");
  const auto isRule = [&](const char *name) { return rule.is(Value::Kind::text) && rule.bytes == name; };
  Decision decision;
  decision.strategy = spec.strategy;
  if (spec.isFlat()) {
    if (isRule("none") && groups.items.empty()) return decision;
    throw badHeader("/header/core/groups", "a flat plan has no groups");
  }
  if (spec.strategy != FUSCO_STRATEGY_HIER) {
    throw badHeader("/header/core/strategy", "strategy auto is not settled");
  }
  for (const fusco_balance known : {FUSCO_BALANCE_STATIC, FUSCO_BALANCE_ROTATE, FUSCO_BALANCE_LPT}) {
    if (isRule(planning::balanceName(known))) decision.rule = known;
  }
  if (decision.rule == FUSCO_BALANCE_BEST) throw badHeader("/header/core/rule", "an unknown rule");
  if (groups.items.size() != spec.ranks) {
    throw badHeader("/header/core/groups", "%llu groups for %u ranks", uint64_t{groups.items.size()},
                    spec.ranks);
  }
  for (uint32_t first = 0; first < spec.ranks; first += spec.ranksPerNode) {
    std::vector<bool> seen(spec.ranksPerNode);
    for (uint32_t i = first; i < first + spec.ranksPerNode; i++) {
      const Value &group = groups.items[i];
      const bool isSound =
          group.is(Value::Kind::integer) && group.integer < spec.ranksPerNode && !seen[group.integer];
      if (!isSound) {
        throw badHeader(("/header/core/groups/" + std::to_string(first)).c_str(),
                        "a node does not hold every group once");
      }
      seen[group.integer] = true;
      decision.groups.push_back(static_cast<uint16_t>(group.integer));
    }
  }
  return decision;
}

// The core as spec and decision; whatever is wrong with it is the header's fault. `packed`: its bytes.
void readCore(const Value &core, std::string_view packed, uint32_t ranks, Header &header) {
  try {
    header.spec = CoreOptions(core).spec();
  } catch (const Failure &failure) {
    throw badHeader("/header/core", "%s", failure.error.message);
  }
  if (header.spec.ranks != ranks) {
    throw badHeader("/header/core/ranks", "%u ranks, but %u shards", header.spec.ranks, ranks);
  }
  header.decision = readDecision(header.spec, core);
  planning::MsgpackWriter again;
  planning::packOptions(header.spec, header.decision, again);
  const std::vector<uint8_t> &bytes = again.bytes();
  if (!std::equal(bytes.begin(), bytes.end(), packed.begin(), packed.end(),
                  [](uint8_t a, char b) { return a == static_cast<uint8_t>(b); })) {
    throw notCanonical("the core is not in canonical form");
  }
}

// Magic and version. Returns the number of ranks that the array's length implies.
uint32_t readPreamble(Cursor &cursor, uint32_t &minor) {
  const uint8_t *bytes = cursor.bytes();
  const uint64_t length = cursor.length();
  const bool isLong = length > 0 && bytes[0] == array16;
  const uint32_t start = isLong ? 3 : 1;
  const uint64_t magicBytes = 1 + magic.size();
  const bool isPlan = length >= start + magicBytes && (isLong || bytes[0] >> 4 == 9) &&
                      bytes[start] == (0xa0 | magic.size()) &&
                      std::memcmp(bytes + start + 1, magic.data(), magic.size()) == 0;
  if (!isPlan) throw Failure(FUSCO_E_PLAN_MAGIC, "the file does not start like a plan");
  const uint32_t items = isLong ? uint32_t{bytes[1]} << 8 | bytes[2] : bytes[0] & 15;
  cursor.skip(start + magicBytes);
  const uint8_t *version = cursor.take(3, "the version");
  if (version[0] != 0x92 || version[1] > 127 || version[2] > 127) {
    throw Failure(FUSCO_E_PLAN_CANONICAL, "the version is not two small integers").at("/version");
  }
  if (version[1] != FUSCO_FORMAT_MAJOR || version[2] > FUSCO_FORMAT_MINOR) {
    throw Failure(FUSCO_E_PLAN_VERSION, "format %u.%u; this version reads %d.0 to %d.%d: update fusco",
                  uint32_t{version[1]}, uint32_t{version[2]}, FUSCO_FORMAT_MAJOR, FUSCO_FORMAT_MAJOR,
                  FUSCO_FORMAT_MINOR);
  }
  minor = version[2];
  const uint32_t ranks = (items - 4) / 2;
  const bool isSound = items >= 6 && items % 2 == 0 && ranks <= FUSCO_MAX_RANKS && (items >= 16) == isLong;
  if (!isSound) {
    throw Failure(FUSCO_E_PLAN_CANONICAL, "an array of %u items is not a plan of 1..%d ranks", items,
                  FUSCO_MAX_RANKS);
  }
  return ranks;
}

// The lowest minor version whose readers know everything in a header.
uint32_t minorOf(const Value &header) {
  const Value &core = *header.find("core");
  const bool isOne = header.find("extra") != nullptr ||
                     std::any_of(minor1Keys.begin(), minor1Keys.end(),
                                 [&](const char *key) { return core.find(key) != nullptr; });
  return isOne ? 1 : 0;
}

uint32_t minorOf(const Spec &spec) {
  const bool isOne = spec.combineDtype != planning::defaultCombineDtype(spec.dtype) ||
                     (!spec.isFlat() && spec.sum != FUSCO_SUM_NODE) ||
                     (spec.placement.hasReplicas() && spec.replicas != FUSCO_REPLICAS_QUOTA_1);
  return isOne ? 1 : 0;
}

}  // namespace

Header readHeader(Cursor &cursor) {
  uint32_t minor = 0;
  const uint32_t ranks = readPreamble(cursor, minor);
  const ReadValue read = readHeaderValue(cursor, FUSCO_MAX_HEADER_BYTES);
  const Value &value = read.value;
  checkTypes(value, ranks);
  if (minorOf(value) != minor) {
    throw Failure(FUSCO_E_PLAN_CANONICAL, "format %d.%u, but the header is one of %d.%u", FUSCO_FORMAT_MAJOR,
                  minor, FUSCO_FORMAT_MAJOR, minorOf(value))
        .at("/version");
  }
  const Value *extra = value.find("extra");
  if (!read.isShortest || !hasSortedKeys(value, false) ||
      (extra != nullptr && !hasSortedKeys(*extra, true))) {
    throw notCanonical("encoding the header again gives other bytes");
  }
  Header header;
  const Value &core = *value.find("core");
  readCore(core, core.bytes, ranks, header);
  header.planId = digestOf(*value.find("planId"));
  header.reason = value.find("reason")->bytes;
  for (const Value &entry : value.find("shards")->items) {
    header.shards.push_back({entry.items[0].integer, digestOf(entry.items[1])});
  }
  return header;
}

std::vector<uint8_t> writeHeader(const Header &header, std::string_view producer, std::string_view reason) {
  planning::MsgpackWriter to;
  const auto ranks = static_cast<uint32_t>(header.shards.size());
  to.array(4 + 2 * ranks);
  to.text(magic);
  to.array(2);
  to.integer(FUSCO_FORMAT_MAJOR);
  to.integer(minorOf(header.spec));
  to.map(5);
  to.text("core");
  planning::packOptions(header.spec, header.decision, to);
  to.text("planId");
  to.binary(header.planId.data(), static_cast<uint32_t>(header.planId.size()));
  to.text("producer");
  to.text(producer);
  to.text("reason");
  to.text(reason);
  to.text("shards");
  to.array(ranks);
  for (const ListedShard &shard : header.shards) {
    to.array(2);
    to.integer(static_cast<uint32_t>(shard.bytes));
    to.binary(shard.digest.data(), static_cast<uint32_t>(shard.digest.size()));
  }
  return to.bytes();
}

Digest planIdOf(const Header &header) {
  planning::MsgpackWriter start;
  start.array(2);
  start.text(magic);
  start.integer(FUSCO_FORMAT_MAJOR);
  planning::packOptions(header.spec, header.decision, start);
  planning::Sha256 hash;
  hash.update(start.bytes().data(), start.bytes().size());
  for (const ListedShard &shard : header.shards) hash.update(shard.digest.data(), shard.digest.size());
  return hash.finish();
}

uint32_t padBytes(uint64_t at) {
  const uint64_t past = (at + padHeadBytes + shardHeadBytes) % FUSCO_SECTION_ALIGN;
  return static_cast<uint32_t>((FUSCO_SECTION_ALIGN - past) % FUSCO_SECTION_ALIGN);
}

}  // namespace fusco::plan_file
