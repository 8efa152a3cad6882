// The header of a plan file: options, what the facts decided, and the digests of the shards.
#pragma once

#include <string>

#include "msgpack_reader.hpp"
#include "options_digest.hpp"

namespace fusco::plan_file {

using planning::Decision;
using planning::Digest;
using planning::Spec;

struct ListedShard {
  uint64_t bytes;
  Digest digest;
};

struct Header {
  Spec spec;  // its strategy is settled
  Decision decision;
  Digest planId;
  std::string reason;  // why AUTO chose the strategy, as read: UTF-8
  std::vector<ListedShard> shards;
};

// Reads a file from its start to its first pad. Throws E_PLAN_MAGIC, E_PLAN_VERSION, E_PLAN_TRUNCATED,
// E_PLAN_CANONICAL, E_PLAN_HEADER.
Header readHeader(Cursor &cursor);

// The bytes in front of the first pad. `producer` and `reason` are UTF-8 of less than 256 bytes.
std::vector<uint8_t> writeHeader(const Header &header, std::string_view producer, std::string_view reason);

// SHA-256 over what identifies a plan: options, decision and the digests of the shards.
Digest planIdOf(const Header &header);

// Zeros of the pad at `at`, so that the shard behind it starts at a multiple of 64.
uint32_t padBytes(uint64_t at);

}  // namespace fusco::plan_file
