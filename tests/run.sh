#!/usr/bin/env bash
# Installs what is missing, builds everything and runs every test, the layering and format checks among them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

jobs/install.sh libgtest-dev libgmock-dev clang-format-14 hdf5-tools python3-h5py
cmake --preset release -DTANGRAM_TESTS=ON
cmake --build build
ctest --test-dir build --output-on-failure --parallel 2
