// Compiled if nccl.h is found: what nccl_abi.hpp declares is what NCCL declares.

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <type_traits>

#include "nccl_abi.hpp"

namespace abi = fusco::nccl::abi;

static_assert(NCCL_VERSION_CODE >= abi::oldest);
static_assert(ncclSuccess == static_cast<int>(abi::success));
static_assert(ncclRemoteError == static_cast<int>(abi::remoteError));
static_assert(ncclInProgress == static_cast<int>(abi::inProgress));
static_assert(ncclUint8 == static_cast<int>(abi::uint8Type));
static_assert(sizeof(ncclUniqueId) == sizeof(abi::UniqueId) &&
              alignof(ncclUniqueId) == alignof(abi::UniqueId));
static_assert(sizeof(ncclResult_t) == sizeof(abi::Result) && sizeof(ncclDataType_t) == sizeof(abi::DataType));
static_assert(NCCL_CONFIG_UNDEF_INT == INT_MIN);

static_assert(sizeof(ncclConfig_t) >= sizeof(abi::Config));
static_assert(offsetof(ncclConfig_t, size) == offsetof(abi::Config, size));
static_assert(offsetof(ncclConfig_t, magic) == offsetof(abi::Config, magic));
static_assert(offsetof(ncclConfig_t, version) == offsetof(abi::Config, version));
static_assert(offsetof(ncclConfig_t, blocking) == offsetof(abi::Config, blocking));
static_assert(offsetof(ncclConfig_t, cgaClusterSize) == offsetof(abi::Config, cgaClusterSize));
static_assert(offsetof(ncclConfig_t, minCTAs) == offsetof(abi::Config, minCtas));
static_assert(offsetof(ncclConfig_t, maxCTAs) == offsetof(abi::Config, maxCtas));
static_assert(offsetof(ncclConfig_t, netName) == offsetof(abi::Config, netName));
static_assert(offsetof(ncclConfig_t, splitShare) == offsetof(abi::Config, splitShare));

template <class F, class Expected>
constexpr bool is = std::is_same_v<F, Expected>;

static_assert(is<decltype(ncclGetVersion), ncclResult_t(int *)>);
static_assert(is<decltype(ncclGetUniqueId), ncclResult_t(ncclUniqueId *)>);
static_assert(
    is<decltype(ncclCommInitRankConfig), ncclResult_t(ncclComm_t *, int, ncclUniqueId, int, ncclConfig_t *)>);
static_assert(is<decltype(ncclCommFinalize), ncclResult_t(ncclComm_t)>);
static_assert(is<decltype(ncclCommDestroy), ncclResult_t(ncclComm_t)>);
static_assert(is<decltype(ncclCommAbort), ncclResult_t(ncclComm_t)>);
static_assert(is<decltype(ncclCommGetAsyncError), ncclResult_t(ncclComm_t, ncclResult_t *)>);
static_assert(is<decltype(ncclGetErrorString), const char *(ncclResult_t)>);
static_assert(is<decltype(ncclGetLastError), const char *(ncclComm_t)>);
static_assert(is<decltype(ncclGroupStart), ncclResult_t()>);
static_assert(is<decltype(ncclGroupEnd), ncclResult_t()>);
static_assert(is<decltype(ncclSend),
                 ncclResult_t(const void *, size_t, ncclDataType_t, int, ncclComm_t, cudaStream_t)>);
static_assert(
    is<decltype(ncclRecv), ncclResult_t(void *, size_t, ncclDataType_t, int, ncclComm_t, cudaStream_t)>);
static_assert(is<decltype(ncclAllGather),
                 ncclResult_t(const void *, void *, size_t, ncclDataType_t, ncclComm_t, cudaStream_t)>);
