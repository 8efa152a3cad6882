#include "nccl_library.hpp"

#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>

#include "fusco_nccl.h"
#include "guard.hpp"
#include "structs.hpp"

namespace fusco::nccl {

namespace {

constexpr const char *defaultName = "libnccl.so.2";

template <class F>
void bind(void *handle, const std::string &path, const char *name, F *&function) {
  function = reinterpret_cast<F *>(dlsym(handle, name));
  if (function != nullptr) return;
  throw Failure(FUSCO_E_BACKEND, "%.120s has no %s: it is no NCCL of 2.19 or later", path.c_str(), name);
}

// The path at which the loader found the library.
std::string fileOf(void *handle, const std::string &asked) {
  const auto *symbol = reinterpret_cast<const void *>(dlsym(handle, "ncclGetVersion"));
  Dl_info info{};
  if (symbol != nullptr && dladdr(symbol, &info) != 0 && info.dli_fname != nullptr) return info.dli_fname;
  return asked;
}

std::unique_ptr<Library> open(const std::string &asked, bool isDefault) {
  void *handle = dlopen(asked.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    const char *reason = dlerror();
    throw Failure(FUSCO_E_BACKEND, "NCCL does not open: %.150s%s", reason == nullptr ? asked.c_str() : reason,
                  isDefault ? " (set FUSCO_NCCL_PATH to a libnccl.so.2)" : "");
  }
  auto library = std::make_unique<Library>();
  library->path = fileOf(handle, asked);
  abi::GetVersion *getVersion = nullptr;
  bind(handle, asked, "ncclGetVersion", getVersion);
  if (getVersion(&library->version) != abi::success || library->version < abi::oldest) {
    throw Failure(FUSCO_E_BACKEND, "%.120s is NCCL %d.%d.%d; 2.19 or later is needed", library->path.c_str(),
                  library->version / 10000, library->version / 100 % 100, library->version % 100);
  }
#define FUSCO_NCCL_BIND(member, symbol, ...) bind(handle, asked, #symbol, library->member);
  FUSCO_NCCL_FUNCTIONS(FUSCO_NCCL_BIND)
#undef FUSCO_NCCL_BIND
  return library;
}

}  // namespace

const Library &openLibrary(const char *path) {
  static std::mutex mutex;
  // Never closed: NCCL runs threads.
  static const Library *opened = nullptr;
  const std::lock_guard<std::mutex> lock(mutex);
  if (opened != nullptr) return *opened;
  const char *asked = path != nullptr ? path : std::getenv("FUSCO_NCCL_PATH");
  const bool isDefault = asked == nullptr || *asked == '\0';
  opened = open(isDefault ? defaultName : asked, isDefault).release();
  return *opened;
}

}  // namespace fusco::nccl

// Here and not in nccl_api.cc, because a build without CUDA has it as well.
fusco_status fusco_nccl_open(const char *path, fusco_nccl_library *library, fusco_error *error) {
  return fusco::guarded(error, [&] {
    if (library == nullptr) throw fusco::Failure(FUSCO_E_OPTION, "library is NULL");
    const fusco::nccl::Library &found = fusco::nccl::openLibrary(path);
    auto opened = fusco_sized<fusco_nccl_library>();
    std::snprintf(opened.path, sizeof opened.path, "%s", found.path.c_str());
    opened.version = static_cast<uint32_t>(found.version);
    fusco::structTo(library, opened, "fusco_nccl_library");
  });
}
