// A whole plan file in memory: read and verified, or made to be written.
#pragma once

#include <memory>

#include "header.hpp"
#include "shard_view.hpp"

namespace fusco::plan_file {

class PlanFile {
 public:
  // Reads and verifies. Throws the codes of fusco_plan_file_parse.
  PlanFile(const void *data, uint64_t bytes);
  PlanFile(const PlanFile &) = delete;
  PlanFile &operator=(const PlanFile &) = delete;

  // Reads a file. Throws E_FILE_NOT_FOUND, E_FILE_READ, and the above.
  static std::unique_ptr<PlanFile> open(const char *path);

  const Header &header() const { return header_; }
  const std::vector<ShardView> &shards() const { return shards_; }
  const uint8_t *bytes() const { return bytes_.get(); }
  uint64_t size() const { return size_; }

  // Plans the routing again. Throws E_ENTRY where the file is not the plan of it, and the codes of planning.
  void checkRouting(const std::vector<fusco_ids> &ids) const;

 private:
  struct FreeAligned {
    void operator()(uint8_t *bytes) const;
  };

  explicit PlanFile(uint64_t size);
  void parse();

  std::unique_ptr<uint8_t, FreeAligned> bytes_;  // shards are aligned in it, as they are in the file
  uint64_t size_;
  Header header_;
  std::vector<ShardView> shards_;
};

// The shards behind a header, up to the digest at the end. Throws E_PLAN_TRUNCATED, E_PLAN_CANONICAL.
std::vector<fusco_buffer> readShards(Cursor &cursor, const Header &header);

// The bytes of a plan's file; `header` gets its digests. Throws E_LIMIT.
std::vector<uint8_t> encodePlan(Header &header, const std::vector<fusco_buffer> &shards,
                                std::string_view reason);

// Writes bytes under a temporary name and renames it. Throws E_FILE_WRITE.
void writeFile(const char *path, const void *data, uint64_t bytes);

}  // namespace fusco::plan_file
