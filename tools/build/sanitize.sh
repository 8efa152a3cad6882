#!/usr/bin/env bash
# Runs the native tests under sanitizers, each in a build of its own below build/, without CUDA.
#
#   tools/build/sanitize.sh short    the C tests under AddressSanitizer with UndefinedBehaviorSanitizer, and under
#                                    ThreadSanitizer; what CI runs
#   tools/build/sanitize.sh          also the C tests under valgrind, and the addon's tests under AddressSanitizer with
#                                    UndefinedBehaviorSanitizer, and under ThreadSanitizer
set -euo pipefail
cd "$(dirname "$0")/../.."

mode=${1:-full}
if [ "$mode" != short ] && [ "$mode" != full ]; then
  echo "sanitize.sh: '$mode' is neither short nor full" >&2
  exit 2
fi

c_flags=
c_tests=(test_audit test_exchange test_host_swap test_interface test_mailbox test_most_rows test_plan_tables
  test_planning test_refusals test_rounds)

# The targets of one build: build NAME SANITIZERS TARGET...
build() {
  local name=$1 sanitizers=$2
  shift 2
  cmake -S native -B "build/$name" -G Ninja -DFUSCO_CUDA=OFF -DCMAKE_BUILD_TYPE=Release \
    -DCMAKE_C_FLAGS_RELEASE="-O1 $c_flags" -DCMAKE_CXX_FLAGS_RELEASE=-O1 -DFUSCO_SANITIZE="$sanitizers" > /dev/null
  cmake --build "build/$name" --target "$@" > "build/$name/build.log" || {
    cat "build/$name/build.log" >&2
    exit 1
  }
}

run_c_tests() {
  echo "== C tests, $1"
  ctest --test-dir "build/$1" --output-on-failure --no-tests=error
}

export UBSAN_OPTIONS=print_stacktrace=1 TSAN_OPTIONS=halt_on_error=1
build asan address,undefined "${c_tests[@]}"
run_c_tests asan
build tsan thread "${c_tests[@]}"
run_c_tests tsan
[ "$mode" = full ] || exit 0

if command -v valgrind > /dev/null; then
  # Valgrind does not emulate the flags that flush subnormals.
  c_flags=-DFUSCO_TEST_NO_FLUSH
  build valgrind '' "${c_tests[@]}"
  for test in "${c_tests[@]}"; do
    echo "== valgrind, $test"
    valgrind --quiet --error-exitcode=1 --leak-check=full --show-leak-kinds=definite,indirect --errors-for-leak-kinds=definite,indirect \
      "build/valgrind/test/$test"
  done
  c_flags=
else
  echo '== valgrind is not installed, its part is left out'
fi

# Node itself is not instrumented: the sanitizer's library is loaded before it, what the engine leaks is not counted,
# and its own synchronisation is not looked at. --no-file-parallelism, because a process under a sanitizer takes several
# times its memory.
addon_tests() {
  local name=$1 libraries=$2
  shift 2
  echo "== addon, $name"
  env LD_PRELOAD="$libraries" ASAN_OPTIONS=detect_leaks=0 \
    TSAN_OPTIONS='halt_on_error=1 ignore_noninstrumented_modules=1' \
    FUSCO_SANITIZED_ADDON="$PWD/build/$name/node/fusco.node" FUSCO_REQUIRE_NATIVE=1 \
    NODE_OPTIONS="--require $PWD/tools/build/useAddon.cjs" \
    node node_modules/vitest/vitest.mjs run --no-file-parallelism "$@"
}

build asan address,undefined fusco_node
addon_tests asan "$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libstdc++.so)" \
  test/native/{addon,buffers,exchange,lifetime,special-values}. \
  test/executor/training/{fp8,gating}. test/executor/freed-buffers.
build tsan thread fusco_node
addon_tests tsan "$(gcc -print-file-name=libtsan.so)" \
  test/native/{addon,buffers,exchange,lifetime}. test/executor/training/{fp8,gating}.
