#!/usr/bin/env bash
# Configures and builds one preset with a single progress line; the compiler's words are shown
# only when something fails.
# Usage: scripts/build.sh PRESET TARGET
# COGSERVE_CUDA_ARCHITECTURES, if set, is what the cuda preset compiles for.
set -euo pipefail
cd "$(dirname "$0")/.."

preset=$1
target=$2
case $preset in
  release | bench) dir=build ;;
  *) dir=build-$preset ;;
esac
mkdir -p "$dir"
log=$dir/build.log

arguments=()
if command -v ccache >/dev/null; then
  arguments+=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache -DCMAKE_CUDA_COMPILER_LAUNCHER=ccache)
fi
if [ "$preset" = cuda ] && [ -n "${COGSERVE_CUDA_ARCHITECTURES:-}" ]; then
  arguments+=("-DCMAKE_CUDA_ARCHITECTURES=$COGSERVE_CUDA_ARCHITECTURES")
fi

fail() {
  echo
  {
    grep -E 'error:|Error |undefined reference' "$log" | grep -v '^: &&' | head -n 20 || true
    tail -n 5 "$log"
  } | cut -c1-300 >&2
  echo "The build failed; the whole output is in $log" >&2
  exit 1
}

echo "Configuring ($preset)"
cmake --preset "$preset" "${arguments[@]}" >"$log" 2>&1 || fail

# One line, rewritten in place on a terminal, a line every tenth part elsewhere.
progress() {
  local done all percent last=-1
  while IFS= read -r line; do
    printf '%s\n' "$line" >>"$log"
    if [[ $line =~ ^\[([0-9]+)/([0-9]+)\] ]]; then
      done=${BASH_REMATCH[1]} all=${BASH_REMATCH[2]}
      percent=$((100 * done / all))
      if [ -t 1 ]; then
        printf '\r\033[KBuilding %3d %%  (%d of %d)' "$percent" "$done" "$all"
      elif [ $((percent / 10)) -ne "$last" ]; then
        last=$((percent / 10))
        printf 'Building %3d %%  (%d of %d)\n' "$percent" "$done" "$all"
      fi
    fi
  done
  if [ -t 1 ]; then printf '\r\033[K'; fi
}
started=$SECONDS
cmake --build "$dir" --target "$target" 2>&1 | progress || fail
echo "Built in $((SECONDS - started)) s"
