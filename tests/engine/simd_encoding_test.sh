#!/usr/bin/env bash
# AVX-512's dot products of bytes must have AVX-512's encoding: Ice Lake and Zen 4 know no other, and
# compilers that are told of AVX-VNNI, as Highway before 1.0.4 does, prefer that one. So the tests
# would pass on one machine and the server crash on another.
# Usage: simd_encoding_test.sh OBJDUMP LIBRARY
set -euo pipefail
objdump=$1
library=$2

dots=$("$objdump" --disassemble --no-show-raw-insn "$library" | grep -E '\bvpdp[a-z]+' || true)
if [ -z "$dots" ]; then
  echo "No dot product of bytes found in $library" >&2
  exit 1
fi
if grep -m 3 '{vex}' <<<"$dots"; then
  echo "The instructions above are AVX-VNNI's" >&2
  exit 1
fi
echo "$(wc -l <<<"$dots") dot products of bytes, all in AVX-512's encoding"
