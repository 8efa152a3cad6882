// The part of NCCL's public interface that is used, as nccl.h declares it since 2.19: the build needs no
// NCCL. If a build finds nccl.h, abi_check.cc compares the two.
#pragma once

#include <climits>
#include <cstddef>

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
using GetUniqueId = Result(UniqueId *);
using CommInitRankConfig = Result(Comm **, int, UniqueId, int, Config *);
using CommFinalize = Result(Comm *);
using CommDestroy = Result(Comm *);
using CommAbort = Result(Comm *);
using CommGetAsyncError = Result(Comm *, Result *);
using GetErrorString = const char *(Result);
using GetLastError = const char *(Comm *);
using GroupStart = Result();
using GroupEnd = Result();
using Send = Result(const void *, size_t, DataType, int, Comm *, Stream);
using Recv = Result(void *, size_t, DataType, int, Comm *, Stream);
using AllGather = Result(const void *, void *, size_t, DataType, Comm *, Stream);

}  // namespace fusco::nccl::abi
