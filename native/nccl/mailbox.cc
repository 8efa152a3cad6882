#include "mailbox.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#endif

#include <cerrno>
#include <climits>
#include <cstring>
#include <new>

#include "failure.hpp"

namespace fusco::nccl {

static_assert(std::atomic<uint64_t>::is_always_lock_free, "processes share atomics by address");

namespace {

constexpr uint64_t made = 0x4452414f42435346;  // "FSCBOARD"
constexpr uint32_t places = 2;
constexpr uint32_t hasFailedBit = 1u << 31;

// The namespace in which this process has its number; 0: unknown.
ino_t ownNamespace() {
  struct stat status {};
  return stat("/proc/self/ns/pid", &status) == 0 ? status.st_ino : 0;
}

#if defined(__linux__)
// The size of shared memory is a multiple of this.
constexpr uint64_t sizeUnit = 1;

// Wakes all processes that sleep on a word.
void wakeAll(std::atomic<uint32_t> *word) {
  syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}
// Sleeps until a word that was `seen` has changed, or for `timeout`.
void sleepOn(std::atomic<uint32_t> *word, uint32_t seen, const timespec &timeout) {
  syscall(SYS_futex, word, FUTEX_WAIT, seen, &timeout, nullptr, 0);
}
#else
// There are no GPUs of other systems that this library runs on: only tests have mailboxes there, and take
// naps.
constexpr uint64_t sizeUnit = 16384;

void wakeAll(std::atomic<uint32_t> *) {}
void sleepOn(std::atomic<uint32_t> *, uint32_t, const timespec &) { usleep(1000); }
int posix_fallocate(int file, off_t, off_t bytes) { return ftruncate(file, bytes) == 0 ? 0 : errno; }
#endif

[[noreturn]] void refuse(const char *what, const std::string &name) {
  throw Failure(FUSCO_E_BACKEND, "shared memory %.60s: %s: %s", name.c_str(), what, std::strerror(errno));
}

}  // namespace

uint64_t monotonicNs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1000000000 + static_cast<uint64_t>(now.tv_nsec);
}

// Followed by posts [neighbors, places], segments [neighbors, maxSegments] and pieces [neighbors, places].
struct Mailbox::Head {
  std::atomic<uint64_t> made;
  std::atomic<uint32_t> attached;
  std::atomic<uint32_t> left;
  std::atomic<uint32_t> news;                     // counts announcements and failures
  std::atomic<uint32_t> failed[maxMailboxRanks];  // hasFailedBit | the culprit's rank + 1, or 0
  std::atomic<uint32_t> hasLeft[maxMailboxRanks];
  pid_t process[maxMailboxRanks];  // written before `attached`
  ino_t namespaceOf[maxMailboxRanks];
  Post posts[];
};

Mailbox::Mailbox(const std::string &name, uint32_t neighbors, uint32_t self, const Wait &wait)
    : name_(name),
      neighbors_(neighbors),
      self_(self),
      bytes_(
          (sizeof(Head) +
           uint64_t{neighbors} * (places * (sizeof(Post) + sizeof(Piece)) + maxSegments * sizeof(Segment)) +
           sizeUnit - 1) /
          sizeUnit * sizeUnit) {
  if (neighbors > maxMailboxRanks || name.size() < 2 || name[0] != '/') {
    throw Failure(FUSCO_E_OPTION,
                  "a mailbox for %u ranks called %.60s; it takes 1 to %u ranks and a name that starts with /",
                  neighbors, name.c_str(), maxMailboxRanks);
  }
  // Removes the name when this constructor ends, with or without a failure.
  std::unique_ptr<const char, decltype(&shm_unlink)> created(nullptr, shm_unlink);
  int file = -1;
  if (self == 0) {
    file = shm_open(name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (file < 0) refuse("making it", name);
    created.reset(name.c_str());
    // Memory that is not there would end the process when it is written.
    errno = posix_fallocate(file, 0, static_cast<off_t>(bytes_));
    if (errno != 0) {
      close(file);
      refuse("making room in it", name);
    }
  } else {
    wait([&] {
      file = shm_open(name.c_str(), O_RDWR | O_CLOEXEC, 0600);
      if (file < 0 && errno != ENOENT) refuse("opening it", name);
      struct stat status {};
      if (file >= 0 && (fstat(file, &status) != 0 || static_cast<uint64_t>(status.st_size) != bytes_)) {
        close(file);
        file = -1;
      }
      return file >= 0;
    });
  }
  void *memory = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  if (memory == MAP_FAILED) refuse("mapping it", name);
  head_ = {static_cast<Head *>(memory), [bytes = bytes_](Head *head) { munmap(head, bytes); }};
  // Fresh shared memory is zero, and a zeroed head is a valid one.
  if (self == 0) head_->made.store(made, std::memory_order_release);
  wait([&] { return head_->made.load(std::memory_order_acquire) == made; });
  head_->process[self] = getpid();
  head_->namespaceOf[self] = ownNamespace();
  head_->attached.fetch_add(1);
  if (self == 0) wait([&] { return head_->attached.load() == neighbors_; });
}

Post &Mailbox::at(uint32_t neighbor, uint64_t number) {
  return head_->posts[neighbor * places + number % places];
}

void Mailbox::publish(uint64_t number) {
  Post &post = local(number);
  post.enteredNs = monotonicNs();
  post.number.store(number, std::memory_order_release);
}

bool Mailbox::has(uint32_t neighbor, uint64_t number) const {
  return of(neighbor, number).number.load(std::memory_order_acquire) == number;
}

uint64_t Mailbox::lastCall(uint32_t neighbor) const {
  const Post &even = of(neighbor, 0);
  const Post &odd = of(neighbor, 1);
  return even.number.load() > odd.number.load() ? even.call : odd.call;
}

Segment &Mailbox::segment(uint32_t neighbor, uint32_t index) {
  auto *first = reinterpret_cast<Segment *>(head_->posts + neighbors_ * places);
  return first[neighbor * maxSegments + index];
}

Piece &Mailbox::piece(uint32_t neighbor, uint64_t number) {
  auto *first = reinterpret_cast<Piece *>(&segment(neighbors_, 0));
  return first[neighbor * places + number % places];
}

void Mailbox::announce(uint32_t index, const uint8_t *handle) {
  Segment &changed = segment(self_, index);
  changed.isShared = handle != nullptr ? 1 : 0;
  if (handle != nullptr) std::memcpy(changed.handle, handle, handleBytes);
  changed.generation.fetch_add(1, std::memory_order_release);
  ring();
}

void Mailbox::answer(uint32_t neighbor, uint32_t index, uint32_t generation, uint64_t address) {
  Segment &asked = segment(neighbor, index);
  asked.mapped[self_] = address;
  asked.answer[self_].store(uint64_t{generation} << 1 | (address == 0 ? 1 : 0), std::memory_order_release);
}

void Mailbox::ring() {
  head_->news.fetch_add(1);
  wakeAll(&head_->news);
}

void Mailbox::sleep(uint32_t &seen, uint64_t timeoutNs) {
  const timespec timeout = {static_cast<time_t>(timeoutNs / 1000000000),
                            static_cast<long>(timeoutNs % 1000000000)};
  if (head_->news.load() == seen) sleepOn(&head_->news, seen, timeout);
  seen = head_->news.load();
}

void Mailbox::leave() {
  head_->hasLeft[self_].store(1);
  head_->left.fetch_add(1);
}

bool Mailbox::haveAllLeft() const { return head_->left.load() >= neighbors_; }

void Mailbox::fail(int32_t culprit) {
  head_->failed[self_].store(hasFailedBit | static_cast<uint32_t>(culprit + 1));
  ring();
}

bool Mailbox::hasFailed(uint32_t neighbor) const { return head_->failed[neighbor].load() != 0; }

int32_t Mailbox::culpritOf(uint32_t neighbor) const {
  return static_cast<int32_t>(head_->failed[neighbor].load() & ~hasFailedBit) - 1;
}

bool Mailbox::isGone(uint32_t neighbor) const {
  const ino_t space = head_->namespaceOf[self_];
  if (space == 0 || head_->namespaceOf[neighbor] != space || head_->hasLeft[neighbor].load() != 0)
    return false;
  return kill(head_->process[neighbor], 0) != 0 && errno == ESRCH;
}

}  // namespace fusco::nccl
