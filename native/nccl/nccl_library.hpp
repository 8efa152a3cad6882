// NCCL, opened at run time and once for the process.
#pragma once

#include <string>

#include "nccl_abi.hpp"

namespace fusco::nccl {

struct Library : abi::Functions {
  std::string path;
  int version = 0;
};

// `path`, or, if it is null, FUSCO_NCCL_PATH, or libnccl.so.2 by the loader's rules. A second call
// returns what the first one opened. Throws E_BACKEND.
const Library &openLibrary(const char *path);

}  // namespace fusco::nccl
