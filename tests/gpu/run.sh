#!/usr/bin/env bash
# Proves and measures the CUDA backend on this machine's first GPU, in less than eight minutes.
# Usage: run.sh [BUNDLE_DIR] [OUT_DIR]   (default: the folder of this script, and ./gpu-results)
# Each part has a time limit, and one that fails does not stop the others. Writes results.json and a
# table. Exits with 0 if every part was there and passed, 3 without a CUDA device, else 1.
set -uo pipefail
bundle=$(realpath "${1:-$(dirname "$0")}")
out=$(realpath -m "${2:-gpu-results}")
mkdir -p "$out"
rm -f "$out"/*.json "$out"/*.log "$out"/parts.txt

# Where cuBLASLt is if the linker does not know: in a toolkit, or in Python's packages.
find_cublas() {
  if ldconfig -p 2>/dev/null | grep -q 'libcublasLt\.so\.13'; then return; fi
  local places
  mapfile -t places < <(python3 -c 'import site
print(*site.getsitepackages(), site.getusersitepackages(), sep="\n")' 2>/dev/null)
  find -L /usr/local/cuda*/lib64 "${CONDA_PREFIX:-/usr/local/cuda}/lib" "${places[@]}" -maxdepth 4 \
    -name 'libcublasLt.so.13' -printf '%h\n' 2>/dev/null | head -n 1
}
cublas=$(find_cublas)
# The machine's own path stays, last: the driver may be found by nothing else.
libraries=$bundle/lib${cublas:+:$cublas}${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}

# Of all programs the server asks most of libstdc++.
if ! LD_LIBRARY_PATH=$libraries "$bundle/bin/cogserve" --version >/dev/null 2>&1; then
  libraries=$bundle/gcc:$libraries
fi

probe=$(LD_LIBRARY_PATH=$libraries "$bundle/bin/gpu_kernels_bench" --probe 1 2>&1)
case $? in
  0) echo "$probe" ;;
  3)
    echo "no CUDA device: ${probe#no CUDA device: }" >&2
    exit 3
    ;;
  *)
    echo "the programs do not start: $probe" >&2
    exit 1
    ;;
esac
echo "$probe" >"$out/device.txt"

# part NAME SECONDS COMMAND...: its output goes to NAME.log, its exit code to parts.txt.
part() {
  local name=$1 limit=$2 began=$SECONDS code
  shift 2
  timeout -k 5 "$limit" "$@" >"$out/$name.log" 2>&1 </dev/null
  code=$?
  printf '%s %d %d\n' "$name" "$code" $((SECONDS - began)) >>"$out/parts.txt"
  printf '%-10s exit %d after %d s\n' "$name" "$code" $((SECONDS - began))
}
absent() { printf '%s absent 0\n' "$1" >>"$out/parts.txt"; }
ours=(env "LD_LIBRARY_PATH=$libraries" "COGSERVE_GOLDEN_DIR=$bundle/golden")

part ops 45 "${ours[@]}" "$bundle/bin/cuda_ops_test" "--gtest_output=json:$out/ops.json"
part golden 30 "${ours[@]}" "$bundle/bin/golden_test" --device cuda:0 \
  "--gtest_output=json:$out/golden.json"
part engine 30 "${ours[@]}" "$bundle/bin/engine_device_test" --device cuda:0 \
  "--gtest_output=json:$out/engine.json"
part kernels 45 "${ours[@]}" "$bundle/bin/gpu_kernels_bench" --out "$out/kernels.json"
if python3 -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
  part peer 30 python3 "$bundle/peer_torch.py" "$out/peer.json"
else
  absent peer
fi
shape=$bundle/models/cogvlm2-19b
part model 100 "${ours[@]}" "$bundle/bin/gpu_model_bench" --model "$shape" --out "$out/model.json"
# Bash and Python stand beside the server here, and have libraries of their own.
cogserve=$out/cogserve
printf '#!/bin/bash\nLD_LIBRARY_PATH=%q exec %q "$@"\n' "$libraries" "$bundle/bin/cogserve" >"$cogserve"
chmod +x "$cogserve"
part serve 90 env COGSERVE_MODEL="$shape" COGSERVE_LOAD_FORMAT=dummy COGSERVE_DEVICE=cuda:0 \
  "$bundle/with-server.sh" "$cogserve" \
  python3 "$bundle/serve_bench.py" "$cogserve" "$out/serve.json" 32 8
# Our kernels alone. Calls that fail are no errors to memcheck: our own are checked where they are
# made, one test asks for too much memory, and newer libraries ask older drivers for what they lack.
# Not the tests that take long under it, nor those of cuBLASLt and of recorded passes.
declare -A options=([memcheck]='--report-api-errors no' [racecheck]='')
not_checked='*CudaLarge*:*CudaMatmul*:*CudaPass*:*sums_over_a_whole_vocabulary*'
for tool in memcheck racecheck; do
  if command -v compute-sanitizer >/dev/null; then
    # shellcheck disable=SC2086
    part "$tool" 45 "${ours[@]}" compute-sanitizer --tool "$tool" ${options[$tool]} \
      --error-exitcode 9 --kernel-name kns=cogserve "$bundle/bin/cuda_ops_test" \
      --gtest_filter="-$not_checked"
  else
    absent "$tool"
  fi
done

python3 "$bundle/summarise.py" "$out"
