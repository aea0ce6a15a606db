#!/usr/bin/env bash
# Batched decoding beside llama.cpp: the same layer shapes, the same contexts and threads, by turns
# in one run, with 16-bit weights (ours with f32 activations, and with bf16 ones, as the peer has
# them where its weights are bf16) and with 4-bit ones (and an 8-bit head); prints a table of each:
# the best of all turns, and how many times llama.cpp's figure ours is within a turn (the median
# turn, the least and the most).
#
# Usage: tests/bench/peer_llama_cpp.sh SCRATCH_DIR [THREADS [TURNS [LAYERS]]]
#
# Needs python3, cmake and a compiler, `make bench` (or the decode_bench target) built before, some
# 6 GB in SCRATCH_DIR and as much memory. llama.cpp comes from the source package of
# llama-cpp-python; what SCRATCH_DIR already holds is not made again.
#
# What is not alike, and whom it helps: llama-batched-bench feeds random tokens and samples none
# (llama.cpp); its keys and values are f16, ours f32 (llama.cpp); its Q4_0 has groups of 32 in 4.5
# bits an element, our int4 groups of 128 in 4.125 (cogserve).
set -euo pipefail
scratch=${1:?Usage: $0 SCRATCH_DIR [THREADS [TURNS [LAYERS]]]}
threads=${2:-$(nproc)}
turns=${3:-3}
layers=${4:-4}
here=$(cd "$(dirname "$0")" && pwd)
decode_bench=$here/../../build/tests/bench/decode_bench
jobs=${COGSERVE_PEER_JOBS:-$(nproc)}
if [ ! -x "$decode_bench" ]; then
  echo "Build decode_bench first: scripts/build.sh bench decode_bench" >&2
  exit 1
fi
mkdir -p "$scratch"
cd "$scratch"

python=venv/bin/python
if [ ! -x $python ]; then
  echo "Installing gguf and fetching llama.cpp's source"
  python3 -m venv venv
fi
$python -c 'import gguf' 2>/dev/null || venv/bin/pip install --quiet gguf
compgen -G 'llama_cpp_python-*.tar.gz' >/dev/null ||
  venv/bin/pip download --quiet --no-deps --no-binary llama-cpp-python llama-cpp-python
compgen -G 'llama_cpp_python-*/' >/dev/null || tar xzf llama_cpp_python-*.tar.gz
source=$(echo llama_cpp_python-*/vendor/llama.cpp)

peer=build-llama/bin/llama-batched-bench
if [ ! -x $peer ]; then
  echo "Building llama-batched-bench for this processor"
  cmake -S "$source" -B build-llama -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON \
    -DBUILD_SHARED_LIBS=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_TESTS=OFF \
    -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_OPENSSL=OFF \
    -DLLAMA_ALL_WARNINGS=OFF >build-llama.log
  cmake --build build-llama --target llama-batched-bench -j "$jobs" >>build-llama.log
fi

for dtype in bf16 f16 q4_0; do
  model=random-$layers-layers-$dtype.gguf
  [ -f "$model" ] || $python "$here/peer_llama_cpp.py" gguf "$model" --dtype $dtype --layers "$layers"
done
rm -f peer-*.jsonl cogserve-*.json

# Contexts of 121 to 136 tokens, as decode_bench's. Both do everything twice in a turn.
run_peer() {
  echo "llama.cpp, $1 weights, $threads threads"
  $peer -m "random-$layers-layers-$1.gguf" -t "$threads" -tb "$threads" -c 8192 -npp 120 -pps \
    -ntg 16 -npl 1,1,4,4,8,8,16,16,32,32 ${COGSERVE_PEER_FLAGS:-} --output-format jsonl \
    2>"$1.log" | grep '^{' >"peer-$1-$2.jsonl"
}
run_cogserve() {
  local name=$1
  shift
  "$decode_bench" --threads "$threads" --tries 2 --layers "$layers" "$@" \
    --benchmark_out="cogserve-$name.json" --benchmark_out_format=json
}

# By turns, because a shared machine's memory is faster in one minute than in the next.
for ((turn = 0; turn < turns; ++turn)); do
  for dtype in bf16 f16; do run_peer $dtype "$turn"; done
  run_cogserve "f32-$turn"
  run_cogserve "bf16-$turn" --bf16-products 1
  run_peer q4_0 "$turn"
  run_cogserve "int4-$turn" --int4 1
done
for products in f32 bf16; do
  echo
  echo "16-bit weights, ours times $products activations"
  $python "$here/peer_llama_cpp.py" table --peer bf16 f16 --cogserve $products --turns "$turns"
done
echo
echo "4-bit weights"
$python "$here/peer_llama_cpp.py" table --peer q4_0 --cogserve int4 --turns "$turns"
