#!/usr/bin/env bash
# Runs every benchmark of tests/bench one after the other. Each prints its figures beside the limit
# or the peer that it was measured against in the same run.
# Usage: scripts/bench.sh [NAME ...]   (linear, attention, tokenizer, image, scheduler, grpc)
set -euo pipefail
cd "$(dirname "$0")/.."

names=("$@")
if [ ${#names[@]} -eq 0 ]; then names=(linear attention tokenizer image scheduler grpc); fi
for name in "${names[@]}"; do
  printf '\n== %s\n' "$name"
  "build/tests/bench/${name}_bench"
done
