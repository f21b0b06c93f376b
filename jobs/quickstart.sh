#!/usr/bin/env bash
# From a clone to a smaller model: installs what is missing, builds, and runs configs/quickstart.yaml. A second call
# installs and rebuilds nothing and goes on where the run stopped. Arguments go to `tangram run`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

jobs/install.sh
[ -e build/build.ninja ] || cmake --preset release -DTANGRAM_TESTS=OFF
cmake --build build --target tangram

build/tangram run configs/quickstart.yaml "$@"
