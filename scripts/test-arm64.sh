#!/usr/bin/env bash
# Compiles the engine for 64-bit ARM and runs its tests under QEMU: the proof, on a machine of
# another kind, that its NEON kernels give the right numbers. Takes some minutes. Debian only, whose
# ARM packages are where its others are.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/install-deps.sh g++-aarch64-linux-gnu qemu-user-static
dir=$PWD/build-arm64
root=$dir/root
if [ ! -e "$root/complete" ]; then
  echo "Fetching ARM packages"
  mkdir -p "$dir/apt/lists/partial" "$dir/apt/archives/partial" "$root"
  # With a state of its own, apt leaves the machine's alone and takes every dependency.
  apt=(apt-get -qq -o "Dir::State=$dir/apt" -o Dir::State::status=/dev/null -o "Dir::Cache=$dir/apt"
       -o "APT::Architectures::=$(dpkg --print-architecture)" -o APT::Architectures::=arm64
       -o Debug::NoLocking=1)
  "${apt[@]}" update
  "${apt[@]}" install -y --no-install-recommends --download-only \
    libabsl-dev:arm64 libhwy-dev:arm64 libgtest-dev:arm64 libgmock-dev:arm64
  for package in "$dir"/apt/archives/*_arm64.deb; do dpkg-deb --extract "$package" "$root"; done
  touch "$root/complete"
fi
scripts/build.sh arm64 all
# Without what is the same on every machine: the emulated CUDA kernels and the checks of text.
export COGSERVE_SIM_STEPS=100000
ctest --test-dir "$dir" --output-on-failure -j "$(nproc)" -E 'emulated|house_rules|gpu_'
