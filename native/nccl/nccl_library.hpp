// NCCL, opened at run time and once for the process.
#pragma once

#include <string>

#include "nccl_abi.hpp"

namespace fusco::nccl {

struct Library {
  std::string path;
  int version = 0;
  abi::GetUniqueId *getUniqueId = nullptr;
  abi::CommInitRankConfig *commInitRankConfig = nullptr;
  abi::CommFinalize *commFinalize = nullptr;
  abi::CommDestroy *commDestroy = nullptr;
  abi::CommAbort *commAbort = nullptr;
  abi::CommGetAsyncError *commGetAsyncError = nullptr;
  abi::GetErrorString *getErrorString = nullptr;
  abi::GetLastError *getLastError = nullptr;
  abi::GroupStart *groupStart = nullptr;
  abi::GroupEnd *groupEnd = nullptr;
  abi::Send *send = nullptr;
  abi::Recv *recv = nullptr;
  abi::AllGather *allGather = nullptr;
};

// `path`, or, if it is null, FUSCO_NCCL_PATH, or libnccl.so.2 by the loader's rules. A second call
// returns what the first one opened. Throws E_BACKEND.
const Library &openLibrary(const char *path);

}  // namespace fusco::nccl
