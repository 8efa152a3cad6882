#include "plan_file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <new>

#include "failure.hpp"
#include "plan_layout.h"
#include "planner.hpp"
#include "verify.hpp"

namespace fusco::plan_file {

namespace {

constexpr uint32_t bin8 = 0xc4;
constexpr uint32_t bin32 = 0xc6;
constexpr uint64_t digestBytes = std::tuple_size_v<Digest>;

// A file descriptor that is closed at the end of the scope.
class OpenFile {
 public:
  explicit OpenFile(int descriptor) : descriptor_(descriptor) {}
  ~OpenFile() {
    if (descriptor_ >= 0) close(descriptor_);
  }
  OpenFile(const OpenFile &) = delete;
  OpenFile &operator=(const OpenFile &) = delete;
  int get() const { return descriptor_; }
  // Returns whether everything that was written is there.
  bool closeNow() {
    const int descriptor = descriptor_;
    descriptor_ = -1;
    return close(descriptor) == 0;
  }

 private:
  int descriptor_;
};

Failure notRead(const char *path) {
  return Failure(errno == ENOENT ? FUSCO_E_FILE_NOT_FOUND : FUSCO_E_FILE_READ, "%.100s: %s", path,
                 std::strerror(errno));
}

// Passes the pad and the head in front of a shard.
void readFront(Cursor &cursor, uint32_t rank, uint64_t bytes) {
  const std::string pad = "the pad of rank " + std::to_string(rank);
  const std::string shard = "the shard of rank " + std::to_string(rank);
  const uint32_t zeros = padBytes(cursor.at());
  const uint8_t *head = cursor.take(2 + zeros, pad.c_str());
  const bool isPad = head[0] == bin8 && head[1] == zeros &&
                     std::all_of(head + 2, head + 2 + zeros, [](uint8_t byte) { return byte == 0; });
  const uint32_t kind = cursor.integer(1, shard.c_str());
  const uint32_t length = cursor.integer(4, shard.c_str());
  if (isPad && kind == bin32 && length == bytes) return;
  throw Failure(FUSCO_E_PLAN_CANONICAL, "the pad or the head of the shard is not canonical")
      .atRank(rank)
      .at("/ranks/%u", rank);
}

}  // namespace

std::vector<fusco_buffer> readShards(Cursor &cursor, const Header &header) {
  std::vector<fusco_buffer> shards;
  for (uint32_t rank = 0; rank < header.shards.size(); rank++) {
    const uint64_t bytes = header.shards[rank].bytes;
    readFront(cursor, rank, bytes);
    const uint8_t *first = cursor.take(bytes, ("the shard of rank " + std::to_string(rank)).c_str());
    shards.push_back({const_cast<uint8_t *>(first), bytes});
  }
  return shards;
}

void PlanFile::FreeAligned::operator()(uint8_t *bytes) const { std::free(bytes); }

PlanFile::PlanFile(uint64_t size) : size_(size) {
  const uint64_t whole = (size / FUSCO_SECTION_ALIGN + 1) * FUSCO_SECTION_ALIGN;
  bytes_.reset(static_cast<uint8_t *>(std::aligned_alloc(FUSCO_SECTION_ALIGN, whole)));
  if (bytes_ == nullptr) {
    throw Failure(FUSCO_E_MEMORY, "no memory for a file of %llu bytes", size).limited(size, size);
  }
}

PlanFile::PlanFile(const void *data, uint64_t bytes) : PlanFile(bytes) {
  if (bytes > 0) std::memcpy(bytes_.get(), data, bytes);
  parse();
}

std::unique_ptr<PlanFile> PlanFile::open(const char *path) {
  const OpenFile file(::open(path, O_RDONLY | O_CLOEXEC));
  struct stat status {};
  if (file.get() < 0 || fstat(file.get(), &status) != 0) throw notRead(path);
  if (!S_ISREG(status.st_mode)) throw Failure(FUSCO_E_FILE_READ, "%.100s is not a file", path);
  std::unique_ptr<PlanFile> made(new PlanFile(static_cast<uint64_t>(status.st_size)));
  uint64_t at = 0;
  while (at < made->size_) {
    const ssize_t count = read(file.get(), made->bytes_.get() + at, made->size_ - at);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw notRead(path);
    // It became shorter: what is there is judged.
    if (count == 0) made->size_ = at;
    at += static_cast<uint64_t>(count);
  }
  made->parse();
  return made;
}

void PlanFile::parse() {
  Cursor cursor(bytes_.get(), size_);
  header_ = readHeader(cursor);
  const std::vector<fusco_buffer> parts = readShards(cursor, header_);
  const uint8_t *tail = cursor.take(2, "the digest");
  const uint8_t *digest = cursor.take(digestBytes, "the digest");
  if (tail[0] != bin8 || tail[1] != digestBytes || cursor.at() != size_) {
    throw Failure(FUSCO_E_PLAN_CANONICAL, "the file goes on after its digest at byte %llu", cursor.at())
        .at("/digest");
  }
  const Digest whole = planning::sha256(bytes_.get(), size_ - digestBytes);
  if (!std::equal(whole.begin(), whole.end(), digest)) {
    throw Failure(FUSCO_E_PLAN_DIGEST, "the file is not what its digest says").at("/digest");
  }
  for (uint32_t rank = 0; rank < parts.size(); rank++) {
    shards_.emplace_back(static_cast<const uint8_t *>(parts[rank].data), parts[rank].bytes, rank);
  }
  for (uint32_t rank = 0; rank < parts.size(); rank++) {
    if (planning::sha256(parts[rank].data, parts[rank].bytes) == header_.shards[rank].digest) continue;
    throw Failure(FUSCO_E_PLAN_DIGEST, "the shard is not what its digest says")
        .atRank(rank)
        .at("/ranks/%u", rank);
  }
  if (planIdOf(header_) != header_.planId) {
    throw Failure(FUSCO_E_PLAN_DIGEST, "the plan id is not that of the content").at("/header/planId");
  }
  verifyPlan(header_, shards_);
}

void PlanFile::checkRouting(const std::vector<fusco_ids> &ids) const {
  planning::Planner(header_.spec).planAll(ids, [&](uint32_t rank, const fusco_buffer &shard) {
    const ShardView &found = shards_[rank];
    if (shard.bytes == found.size() && std::memcmp(shard.data, found.bytes(), found.size()) == 0) return;
    const ShardView wanted(static_cast<const uint8_t *>(shard.data), shard.bytes, rank);
    const auto failure = Failure(FUSCO_E_ENTRY, "rank %u: the file is not the plan of this routing", rank);
    const auto instances = found.section<uint16_t>(FUSCO_S_ENTRY_INSTANCE);
    const auto wantedInstances = wanted.section<uint16_t>(FUSCO_S_ENTRY_INSTANCE);
    // Equal entries have equal slots, unless those of other ranks differ.
    const auto entry = static_cast<uint64_t>(
        std::mismatch(instances.begin(), instances.end(), wantedInstances.begin(), wantedInstances.end())
            .first -
        instances.begin());
    if (entry == instances.size() && instances.size() == wantedInstances.size()) {
      throw Failure(failure).atRank(rank).at("/ranks/%u", rank);
    }
    throw Failure(failure).atRank(rank).at("/ranks/%u/entries/%llu", rank, entry);
  });
}

std::vector<uint8_t> encodePlan(Header &header, const std::vector<fusco_buffer> &shards,
                                std::string_view reason) {
  header.shards.clear();
  for (uint32_t rank = 0; rank < shards.size(); rank++) {
    if (shards[rank].bytes > FUSCO_MAX_SHARD_BYTES) {
      throw Failure(FUSCO_E_LIMIT, "a shard of %llu bytes > %u", shards[rank].bytes, FUSCO_MAX_SHARD_BYTES)
          .atRank(rank)
          .limited(shards[rank].bytes, FUSCO_MAX_SHARD_BYTES);
    }
    header.shards.push_back({shards[rank].bytes, planning::sha256(shards[rank].data, shards[rank].bytes)});
  }
  header.planId = planIdOf(header);
  const std::string producer = "fusco " + std::to_string(FUSCO_VERSION_MAJOR) + "." +
                               std::to_string(FUSCO_VERSION_MINOR) + "." +
                               std::to_string(FUSCO_VERSION_PATCH);
  std::vector<uint8_t> bytes = writeHeader(header, producer, reason);
  const auto add = [&](uint32_t byte) { bytes.push_back(static_cast<uint8_t>(byte)); };
  for (const fusco_buffer &shard : shards) {
    const uint32_t pad = padBytes(bytes.size());
    add(bin8);
    add(pad);
    bytes.resize(bytes.size() + pad);
    add(bin32);
    for (int shift = 24; shift >= 0; shift -= 8) add(static_cast<uint32_t>(shard.bytes) >> shift);
    const auto *first = static_cast<const uint8_t *>(shard.data);
    bytes.insert(bytes.end(), first, first + shard.bytes);
  }
  add(bin8);
  add(digestBytes);
  const Digest digest = planning::sha256(bytes.data(), bytes.size());
  bytes.insert(bytes.end(), digest.begin(), digest.end());
  return bytes;
}

void writeFile(const char *path, const void *data, uint64_t bytes) {
  std::string temporary = std::string(path) + ".XXXXXX";
  const auto notWritten = [&] {
    return Failure(FUSCO_E_FILE_WRITE, "%.100s: %s", path, std::strerror(errno));
  };
  OpenFile file(mkostemp(temporary.data(), O_CLOEXEC));
  if (file.get() < 0) throw notWritten();
  const auto *from = static_cast<const uint8_t *>(data);
  bool isWritten = fchmod(file.get(), S_IRUSR | S_IWUSR | S_IRGRP | S_IROTH) == 0;
  for (uint64_t at = 0; isWritten && at < bytes;) {
    const ssize_t count = write(file.get(), from + at, bytes - at);
    if (count >= 0) at += static_cast<uint64_t>(count);
    isWritten = count >= 0 || errno == EINTR;
  }
  isWritten = isWritten && fsync(file.get()) == 0;
  isWritten = file.closeNow() && isWritten && rename(temporary.c_str(), path) == 0;
  if (isWritten) return;
  const Failure failure = notWritten();
  unlink(temporary.c_str());
  throw failure;
}

}  // namespace fusco::plan_file
