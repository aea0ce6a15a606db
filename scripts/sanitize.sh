#!/usr/bin/env bash
# Runs the tests of a sanitizer build; shorter random runs, because each step costs more there.
# Usage: scripts/sanitize.sh asan|asan-engine|tsan
set -euo pipefail
cd "$(dirname "$0")/.."

export COGSERVE_SIM_STEPS=100000
export COGSERVE_STRESS_TOKENS=20000
if [ "$1" = tsan ]; then export COGSERVE_SCOPE_STATES=15000; fi  # in one thread
export ASAN_OPTIONS=detect_leaks=1:strict_string_checks=1:allocator_may_return_null=1
export UBSAN_OPTIONS=print_stacktrace=1
export TSAN_OPTIONS=halt_on_error=1:allocator_may_return_null=1:suppressions=$PWD/tests/tsan.supp
ctest --test-dir "build-$1" --output-on-failure -j "$(nproc)"
