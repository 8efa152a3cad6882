// A rank that gives up tells its neighbors so, and which rank its error names: native/nccl/mailbox.cc.

#include "mailbox.hpp"

#include <unistd.h>

#include <cstdio>
#include <string>
#include <thread>

namespace {

using namespace fusco::nccl;

int failures = 0;

void expect(bool right, const char *what) {
  if (right) return;
  failures++;
  std::printf("wrong: %s\n", what);
}

void awaitAll(const std::function<bool()> &ready) {
  while (!ready()) std::this_thread::yield();
}

}  // namespace

int main() {
  const std::string name = "/fusco-test-" + std::to_string(getpid());
  std::unique_ptr<Mailbox> first, second;
  std::thread other([&] { second = std::make_unique<Mailbox>(name, 2, 1, awaitAll); });
  first = std::make_unique<Mailbox>(name, 2, 0, awaitAll);
  other.join();

  expect(!first->hasFailed(1) && first->culpritOf(1) == -1, "nobody has failed at first");
  second->fail(7);
  expect(first->hasFailed(1) && first->culpritOf(1) == 7, "a failure that names a rank");
  expect(!second->hasFailed(0), "the other rank has not failed");
  first->fail(0);
  expect(second->hasFailed(0) && second->culpritOf(0) == 0, "a failure that names rank 0");
  first->fail(-1);
  expect(second->hasFailed(0) && second->culpritOf(0) == -1, "a failure that names no rank");
  return failures == 0 ? 0 : 1;
}
