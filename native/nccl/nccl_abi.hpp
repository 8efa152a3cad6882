// The part of NCCL's public interface that is used, as nccl.h declares it since 2.19: the build needs no
// NCCL. If a build finds nccl.h, abi_check.cc compares the two.
#pragma once

#include <climits>
#include <cstddef>
#include <type_traits>

struct CUstream_st;

namespace fusco::nccl::abi {

enum Result : int { success = 0, remoteError = 6, inProgress = 7 };

enum DataType : int { uint8Type = 1 };

struct Comm;

struct UniqueId {
  char internal[128];
};

constexpr int versionOf(int major, int minor, int patch) { return major * 10000 + minor * 100 + patch; }
constexpr int oldest = versionOf(2, 19, 0);

// ncclConfig_t as of `oldest`; a newer library reads as many bytes as `size` says.
struct Config {
  size_t size = sizeof(Config);
  unsigned int magic = 0xcafebeef;
  unsigned int version = oldest;
  int blocking = INT_MIN;
  int cgaClusterSize = INT_MIN;
  int minCtas = INT_MIN;
  int maxCtas = INT_MIN;
  const char *netName = nullptr;
  int splitShare = INT_MIN;
};

using Stream = CUstream_st *;

using GetVersion = Result(int *);

// The functions that are used: FUNCTION(member of Functions, symbol, type).
#define FUSCO_NCCL_FUNCTIONS(FUNCTION)                                                                \
  FUNCTION(getUniqueId, ncclGetUniqueId, Result(UniqueId *))                                          \
  FUNCTION(commInitRankConfig, ncclCommInitRankConfig, Result(Comm **, int, UniqueId, int, Config *)) \
  FUNCTION(commFinalize, ncclCommFinalize, Result(Comm *))                                            \
  FUNCTION(commDestroy, ncclCommDestroy, Result(Comm *))                                              \
  FUNCTION(commAbort, ncclCommAbort, Result(Comm *))                                                  \
  FUNCTION(commGetAsyncError, ncclCommGetAsyncError, Result(Comm *, Result *))                        \
  FUNCTION(getErrorString, ncclGetErrorString, const char *(Result))                                  \
  FUNCTION(getLastError, ncclGetLastError, const char *(Comm *))                                      \
  FUNCTION(groupStart, ncclGroupStart, Result())                                                      \
  FUNCTION(groupEnd, ncclGroupEnd, Result())                                                          \
  FUNCTION(send, ncclSend, Result(const void *, size_t, DataType, int, Comm *, Stream))               \
  FUNCTION(recv, ncclRecv, Result(void *, size_t, DataType, int, Comm *, Stream))                     \
  FUNCTION(allGather, ncclAllGather, Result(const void *, void *, size_t, DataType, Comm *, Stream))

// Pointers to them, by the names above.
struct Functions {
#define FUSCO_NCCL_MEMBER(member, symbol, ...) std::add_pointer_t<__VA_ARGS__> member = nullptr;
  FUSCO_NCCL_FUNCTIONS(FUSCO_NCCL_MEMBER)
#undef FUSCO_NCCL_MEMBER
};

}  // namespace fusco::nccl::abi
