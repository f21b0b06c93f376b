#!/usr/bin/env bash
# From a clone to a smaller model: installs what is missing, builds, and runs configs/quickstart.yaml. A second call
# installs and rebuilds nothing and goes on where the run stopped. In an unpacked bundle there is nothing to build.
# Arguments go to `tangram run`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

tangram=bin/tangram
if [ ! -x "$tangram" ]; then
  tangram=build/tangram
  jobs/install.sh
  [ -e build/build.ninja ] || cmake --preset release -DTANGRAM_TESTS=OFF
  cmake --build build --target tangram
fi

"$tangram" run configs/quickstart.yaml "$@"
