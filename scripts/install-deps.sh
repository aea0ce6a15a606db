#!/usr/bin/env bash
# Installs, with apt, the packages that are missing. Debian 12 and Ubuntu 24.04.
# Usage: scripts/install-deps.sh [EXTRA_PACKAGE ...]
set -euo pipefail

packages=(
  cmake g++ make ninja-build pkg-config
  libabsl-dev libgrpc++-dev libprotobuf-dev protobuf-compiler protobuf-compiler-grpc
  libhwy-dev libssl-dev libspdlog-dev libyaml-cpp-dev nlohmann-json3-dev libpcre2-dev
  libopencv-core-dev libopencv-imgproc-dev libjpeg-dev libpng-dev libwebp-dev
  libgtest-dev libgmock-dev libbenchmark-dev libopenblas-dev
  python3 python3-numpy python3-pil fonts-dejavu-core
  python3-grpcio python3-protobuf python3-setuptools
  "$@"
)

missing=()
for package in "${packages[@]}"; do
  if ! dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed'; then
    missing+=("$package")
  fi
done
if [ ${#missing[@]} -eq 0 ]; then exit 0; fi

if ! command -v apt-get >/dev/null; then
  echo "These packages are missing, and there is no apt-get to install them: ${missing[*]}" >&2
  exit 1
fi
sudo=()
if [ "$(id -u)" -ne 0 ]; then sudo=(sudo); fi

log=$(mktemp)
echo "Installing ${#missing[@]} packages with apt: ${missing[*]}"
if ! { "${sudo[@]}" apt-get update &&
       # By env, because sudo drops variables.
       "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
         apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 </dev/null; then
  tail -n 20 "$log" >&2
  echo "apt failed; its whole output is in $log" >&2
  exit 1
fi
rm -f "$log"
