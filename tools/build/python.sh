#!/usr/bin/env bash
# Installs the Python package into an environment below build/ and runs its tests there.
#
#   tools/build/python.sh                            all tests of native/python/tests
#   tools/build/python.sh -k compile                 further arguments go to pytest
#
# PyTorch, NumPy, pytest, hypothesis and transformers come from pip, once. CPU wheels suffice, so the library is built
# without CUDA; FUSCO_CUDA=ON builds it as users do, where nvcc is found.
set -euo pipefail
cd "$(dirname "$0")/../.."

environment=build/python/venv
python=$environment/bin/python
packages=(torch numpy pytest hypothesis transformers)

if [ ! -x "$python" ]; then
  mkdir -p build/python
  "${PYTHON:-python3}" -m venv "$environment"
fi
# An index that cannot be reached costs one attempt per package; PIP_RETRIES sets another number.
export PIP_RETRIES=${PIP_RETRIES:-0}
imports=$(IFS=,; echo "${packages[*]}")
"$python" -c "import $imports" 2> /dev/null || "$python" -m pip install --quiet "${packages[@]}"
# The build directory is kept, so that only what changed is compiled again.
"$python" -m pip install --quiet --config-settings=build-dir="$PWD/build/python/wheel" \
  --config-settings=cmake.define.FUSCO_CUDA="${FUSCO_CUDA:-OFF}" ./native/python
"$python" -m pytest native/python/tests "$@"
