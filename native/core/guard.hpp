// The edge of the library: exceptions end here and become a status and a fusco_error.
#pragma once

#include <exception>
#include <new>
#include <system_error>

#include "failure.hpp"

namespace fusco {

inline fusco_status report(const Failure &failure, fusco_error *error) {
  if (error != nullptr) *error = failure.error;
  return failure.error.status;
}

// Runs `work`; no exception leaves it.
template <class F>
fusco_status guarded(fusco_error *error, F work) noexcept {
  try {
    work();
    return FUSCO_OK;
  } catch (const Failure &failure) {
    return report(failure, error);
  } catch (const std::bad_alloc &) {
    return report(Failure(FUSCO_E_MEMORY, "out of memory"), error);
  } catch (const std::system_error &failure) {
    // The only system calls that throw here are those that start threads; what they lack is memory for a
    // stack, or a process to be allowed one more.
    return report(Failure(FUSCO_E_MEMORY, "no more threads can be started: %s", failure.what()), error);
  } catch (const std::exception &exception) {
    return report(Failure(FUSCO_E_INTERNAL, "%s", exception.what()), error);
  } catch (...) {
    return report(Failure(FUSCO_E_INTERNAL, "an unknown exception"), error);
  }
}

}  // namespace fusco
