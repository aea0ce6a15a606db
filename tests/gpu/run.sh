#!/usr/bin/env bash
# Proves and measures the CUDA backend on this machine's first GPU, in less than eight minutes.
# Usage: run.sh [BUNDLE_DIR] [OUT_DIR]   (default: the folder of this script, and ./gpu-results)
# Each part has a time limit, and one that fails does not stop the others. Writes results.json and a
# table. Exits with 0 if every part was run and passed, 4 if all that was run passed but the machine
# lacks the tool of another, 3 without a CUDA device, else 1.
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

probe=$(LD_LIBRARY_PATH=$libraries timeout -k 5 60 "$bundle/bin/gpu_kernels_bench" --probe 1 2>&1)
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
bus=${probe##*, }

# part NAME SECONDS COMMAND...: its output goes to NAME.log, its exit code to parts.txt. What cannot
# begin before the end is late; the most telling parts come first. COGSERVE_GPU_SECONDS is the end, if
# set.
end=${COGSERVE_GPU_SECONDS:-440}
# of_what_is_left SECONDS: at most so many.
of_what_is_left() { echo $((end - SECONDS < $1 ? end - SECONDS : $1)); }
part() {
  local name=$1 limit began=$SECONDS code
  limit=$(of_what_is_left "$2")
  shift 2
  if [ "$limit" -lt 5 ]; then
    printf '%s late 0\n' "$name" >>"$out/parts.txt"
    printf '%-10s not begun: no time is left\n' "$name"
    return
  fi
  timeout -k 5 "$limit" "$@" >"$out/$name.log" 2>&1 </dev/null
  code=$?
  printf '%s %d %d\n' "$name" "$code" $((SECONDS - began)) >>"$out/parts.txt"
  printf '%-10s exit %d after %d s\n' "$name" "$code" $((SECONDS - began))
}
# absent NAME WHY: the machine lacks what the part needs.
absent() {
  printf '%s absent 0 %s\n' "$1" "$2" >>"$out/parts.txt"
  printf '%-10s not run: %s\n' "$1" "$2"
}
ours=(env "LD_LIBRARY_PATH=$libraries" "COGSERVE_GOLDEN_DIR=$bundle/golden"
  COGSERVE_DEVICE_IS_THERE=1)
tools=$bundle/tests/gpu
# suites NAME SECONDS COMMAND...: a GoogleTest program, suite by suite.
suites() {
  local name=$1 limit
  limit=$(of_what_is_left "$2")
  shift 2
  part "$name" "$limit" python3 "$tools/run_suites.py" "$out/$name.json" $((limit - 6)) 30 \
    "${ours[@]}" "$@"
}

suites ops 75 "$bundle/bin/cuda_ops_test"
suites golden 40 "$bundle/bin/golden_test" --device cuda:0
suites engine 40 "$bundle/bin/engine_device_test" --device cuda:0
# Bash and Python stand beside the server here, and have libraries of their own.
cogserve=$out/cogserve
printf '#!/bin/bash\nLD_LIBRARY_PATH=%q exec %q "$@"\n' "$libraries" "$bundle/bin/cogserve" >"$cogserve"
chmod +x "$cogserve"
for format in bf16 int4; do
  part "demo_$format" 30 "$tools/ask_demo.sh" "$cogserve" cuda:0 "$format" "$bundle/models/demo" \
    "$bundle/pictures"
done
part kernels 45 "${ours[@]}" "$bundle/bin/gpu_kernels_bench" --out "$out/kernels.json"
# The 19B shape with random weights in the engine.
shape=$bundle/models/cogvlm2-19b
model=("${ours[@]}" "$bundle/bin/gpu_model_bench" --model "$shape" --max-itl-ms 50)
part model 100 "${model[@]}" --batches 1,8,32,64 --out "$out/model.json"
# As much as a card of that size has, with what nvidia-smi says of the card meanwhile.
part cap_bf16 60 python3 "$tools/watch_memory.py" "$out/cap_bf16-memory.json" "$bus" \
  "${model[@]}" --gpu-memory 42000000000 --batches 1 --out "$out/cap_bf16.json"
part serve 90 env COGSERVE_MODEL="$shape" COGSERVE_LOAD_FORMAT=dummy COGSERVE_DEVICE=cuda:0 \
  "$bundle/scripts/with-server.sh" "$cogserve" \
  python3 "$tools/serve_bench.py" "$cogserve" "$out/serve.json" 32 8
part cap_int4 90 python3 "$tools/watch_memory.py" "$out/cap_int4-memory.json" "$bus" \
  "${model[@]}" --quantization int4 --gpu-memory $((16 << 30)) --batches 1,4 \
  --out "$out/cap_int4.json"
if timeout 25 python3 -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
  part peer 30 python3 "$tools/peer_torch.py" "$out/peer.json"
else
  absent peer 'no PyTorch with CUDA, or not within 25 s'
fi
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
    absent "$tool" 'no compute-sanitizer'
  fi
done
part model_int4 90 "${model[@]}" --quantization int4 --batches 1,8,32 --out "$out/model_int4.json"

python3 "$tools/summarise.py" "$out"
