#include "msgpack_reader.hpp"

#include "failure.hpp"

namespace fusco::plan_file {

namespace {

// header, core, placement, one expert's replicas, and one to spare.
constexpr int maxDepth = 5;

Failure refused(const char *text) { return Failure(FUSCO_E_PLAN_CANONICAL, "%s", text).at("/header"); }

// Bytes of the UTF-8 sequence that starts with `first`; 0: none does.
int sequenceBytes(uint8_t first) {
  if (first < 0x80) return 1;
  if (first >= 0xc2 && first < 0xe0) return 2;
  if (first >= 0xe0 && first < 0xf0) return 3;
  return first >= 0xf0 && first < 0xf5 ? 4 : 0;
}

bool isUtf8(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
    const int bytes = sequenceBytes(byte(at));
    if (bytes == 0 || at + bytes > text.size()) return false;
    for (int i = 1; i < bytes; i++) {
      if ((byte(at + i) & 0xc0) != 0x80) return false;
    }
    // Longer than it needs to be, a surrogate, or beyond the last code point.
    if (bytes == 3 && byte(at) == 0xe0 && byte(at + 1) < 0xa0) return false;
    if (bytes == 3 && byte(at) == 0xed && byte(at + 1) >= 0xa0) return false;
    if (bytes == 4 && byte(at) == 0xf0 && byte(at + 1) < 0x90) return false;
    if (bytes == 4 && byte(at) == 0xf4 && byte(at + 1) >= 0x90) return false;
    at += bytes;
  }
  return true;
}

class HeaderReader {
 public:
  HeaderReader(Cursor &cursor, uint64_t maxBytes) : cursor_(cursor), end_(cursor.at() + maxBytes) {}

  bool isShortest() const { return isShortest_; }

  Value read(int depth) {
    if (depth > maxDepth || cursor_.at() >= end_) {
      throw refused("the header is deeper or longer than allowed");
    }
    const uint64_t start = cursor_.at();
    const uint32_t kind = cursor_.integer(1, "the header");
    if (kind < 0x80) return number(kind);
    if (kind < 0x90) return map(kind & 15, depth, start);
    if (kind < 0xa0) return array(kind & 15, depth);
    if (kind < 0xc0) return text(kind & 31);
    switch (kind) {
      case 0xc4:
        return string(Value::Kind::binary, cursor_.integer(1, "the header"));
      case 0xcc:
        return number(shortest(cursor_.integer(1, "the header"), 0x80));
      case 0xcd:
        return number(shortest(cursor_.integer(2, "the header"), 0x100));
      case 0xce:
        return number(shortest(cursor_.integer(4, "the header"), 0x10000));
      case 0xd9:
        return text(shortest(cursor_.integer(1, "the header"), 0x20));
      case 0xdc:
        return array(shortest(cursor_.integer(2, "the header"), 16), depth);
      case 0xde:
        return map(shortest(cursor_.integer(2, "the header"), 16), depth, start);
      default:
        throw Failure(FUSCO_E_PLAN_CANONICAL, "the header holds a value of kind 0x%x", kind).at("/header");
    }
  }

 private:
  // A number whose form is the shortest if it is at least `least`.
  uint32_t shortest(uint32_t number, uint32_t least) {
    isShortest_ = isShortest_ && number >= least;
    return number;
  }

  static Value number(uint32_t integer) {
    Value value;
    value.integer = integer;
    return value;
  }
  Value string(Value::Kind kind, uint32_t bytes) {
    Value value;
    value.kind = kind;
    const uint8_t *first = cursor_.take(bytes, "the header");
    value.bytes = {reinterpret_cast<const char *>(first), bytes};
    return value;
  }
  Value text(uint32_t bytes) {
    Value value = string(Value::Kind::text, bytes);
    isShortest_ = isShortest_ && isUtf8(value.bytes);
    return value;
  }
  // Lists grow as they are read: their claimed length may be anything.
  Value array(uint32_t count, int depth) {
    Value value;
    value.kind = Value::Kind::array;
    for (uint32_t i = 0; i < count; i++) value.items.push_back(read(depth + 1));
    return value;
  }
  Value map(uint32_t count, int depth, uint64_t start) {
    Value value;
    value.kind = Value::Kind::map;
    for (uint32_t i = 0; i < count; i++) {
      const Value key = read(depth + 1);
      const bool isName = key.is(Value::Kind::text) || key.is(Value::Kind::integer);
      if (!isName) throw refused("the header has a key that is no text");
      if (!key.is(Value::Kind::text)) isShortest_ = false;
      std::string name = key.is(Value::Kind::integer) ? std::to_string(key.integer) : std::string(key.bytes);
      value.pairs.push_back({std::move(name), read(depth + 1)});
    }
    value.bytes = {reinterpret_cast<const char *>(cursor_.bytes()) + start, cursor_.at() - start};
    return value;
  }

  Cursor &cursor_;
  uint64_t end_;
  bool isShortest_ = true;
};

}  // namespace

const Value *Value::find(std::string_view key) const {
  const Value *found = nullptr;
  for (const Pair &pair : pairs) {
    if (pair.key == key) found = &pair.value;
  }
  return found;
}

const uint8_t *Cursor::take(uint64_t count, const char *what) {
  if (count > length_ - at_) {
    throw Failure(FUSCO_E_PLAN_TRUNCATED, "%s ends at byte %llu, the file at %llu", what, at_ + count,
                  length_)
        .limited(at_ + count, length_);
  }
  at_ += count;
  return bytes_ + at_ - count;
}

uint32_t Cursor::integer(uint32_t count, const char *what) {
  const uint8_t *bytes = take(count, what);
  uint32_t value = 0;
  for (uint32_t i = 0; i < count; i++) value = value << 8 | bytes[i];
  return value;
}

ReadValue readHeaderValue(Cursor &cursor, uint64_t maxBytes) {
  const uint64_t start = cursor.at();
  HeaderReader reader(cursor, maxBytes);
  ReadValue read{reader.read(0), true};
  if (cursor.at() - start > maxBytes) {
    throw Failure(FUSCO_E_PLAN_CANONICAL, "the header is longer than %llu bytes", maxBytes).at("/header");
  }
  read.isShortest = reader.isShortest();
  return read;
}

bool hasSortedKeys(const Value &map, bool isDeep) {
  for (size_t i = 0; i < map.pairs.size(); i++) {
    if (i > 0 && map.pairs[i].key <= map.pairs[i - 1].key) return false;
    if (isDeep && !hasSortedKeys(map.pairs[i].value, true)) return false;
  }
  return true;
}

}  // namespace fusco::plan_file
