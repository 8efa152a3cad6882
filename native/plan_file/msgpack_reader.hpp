// The msgpack of a plan file's header: small integers, strings, byte arrays, arrays and maps.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace fusco::plan_file {

// One value. Views are of the bytes that were read.
struct Value {
  enum class Kind { integer, text, binary, array, map };
  // A key is the text of a map's key; integers as keys read as their digits.
  struct Pair;

  Kind kind = Kind::integer;
  uint32_t integer = 0;
  std::string_view bytes;  // of a text or a byte array; of a map, the bytes that it was read from
  std::vector<Value> items;
  std::vector<Pair> pairs;

  bool is(Kind of) const { return kind == of; }
  // The last value of a key, or null.
  const Value *find(std::string_view key) const;
};

struct Value::Pair {
  std::string key;
  Value value;
};

// Reads values in order, within a bound that every read checks.
class Cursor {
 public:
  Cursor(const uint8_t *bytes, uint64_t length) : bytes_(bytes), length_(length) {}

  uint64_t at() const { return at_; }
  const uint8_t *bytes() const { return bytes_; }
  uint64_t length() const { return length_; }
  // Throws E_PLAN_TRUNCATED.
  const uint8_t *take(uint64_t count, const char *what);
  // A big-endian unsigned integer of 1 to 4 bytes.
  uint32_t integer(uint32_t count, const char *what);
  void skip(uint64_t count) { at_ += count; }

 private:
  const uint8_t *bytes_;
  uint64_t length_;
  uint64_t at_ = 0;
};

// A header that was read. `isShortest`: every value is in its shortest form, and every text is UTF-8.
struct ReadValue {
  Value value;
  bool isShortest = true;
};

// Reads one value of at most `maxBytes`. Throws E_PLAN_CANONICAL for kinds that a header does not hold, and
// E_PLAN_TRUNCATED.
ReadValue readHeaderValue(Cursor &cursor, uint64_t maxBytes);

// Whether the keys of a map, and of maps in it if `isDeep`, ascend.
bool hasSortedKeys(const Value &map, bool isDeep);

}  // namespace fusco::plan_file
