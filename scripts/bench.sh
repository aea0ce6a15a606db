#!/usr/bin/env bash
# Runs the benchmarks of tests/bench one after the other. Those of the kernels print their figures
# beside the machine's limits, measured in the same run.
# Usage: scripts/bench.sh [NAME ...]   (linear, attention, decode, tokenizer, image, scheduler, grpc)
set -euo pipefail
cd "$(dirname "$0")/.."

names=("$@")
if [ ${#names[@]} -eq 0 ]; then names=(linear attention decode tokenizer image scheduler grpc); fi
for name in "${names[@]}"; do
  printf '\n== %s\n' "$name"
  "build/tests/bench/${name}_bench"
  if [ "$name" = decode ]; then
    for kind in bf16-products int4; do build/tests/bench/decode_bench "--$kind" 1; done
  fi
done
