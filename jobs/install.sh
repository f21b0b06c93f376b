#!/usr/bin/env bash
# jobs/install.sh [PACKAGE...]
# Installs the Debian packages that a build of Tangram needs, and the named ones, where they are missing. Prints and
# runs nothing when all are there. Exit code 2 where it may not install; it then prints the command to run.
set -euo pipefail

packages=(
  cmake ninja-build g++ pkg-config
  libdnnl-dev libhdf5-dev coinor-libcbc-dev libyaml-cpp-dev nlohmann-json3-dev libfmt-dev libcli11-dev
  libpcre2-dev libeigen3-dev libopenmpi-dev openmpi-bin
  "$@"
)

missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null || true)
  grep -qx installed <<<"$status" || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

apt=(apt-get -q -y -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0)
if [ "$(id -u)" -eq 0 ]; then
  as_root=(env)
elif command -v sudo >/dev/null && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then
  as_root=(sudo)
else
  cat >&2 <<TEXT
Packages are missing and this user may not install them. As root, run

  apt-get update && apt-get install -y --no-install-recommends ${missing[*]}

and call this script again.
TEXT
  exit 2
fi

echo "Installing ${#missing[@]} packages: ${missing[*]}"
"${as_root[@]}" "${apt[@]}" update
"${as_root[@]}" DEBIAN_FRONTEND=noninteractive "${apt[@]}" install --no-install-recommends "${missing[@]}"
