#!/usr/bin/env bash
# Usage: quantize-repair.sh COGSERVE MODEL
#
# Quantises MODEL, damages 16 bytes in the middle of what was written, and quantises again.
set -euo pipefail
new=$(mktemp -d)
trap 'rm -rf "$new"' EXIT
"$1" quantize "$2" "$new" > /dev/null
shard=$new/model-00001-of-00001.safetensors
middle=$(($(stat -c %s "$shard") / 2))
printf '0123456789abcdef' | dd of="$shard" bs=1 seek="$middle" conv=notrunc 2> /dev/null
"$1" quantize "$2" "$new"
