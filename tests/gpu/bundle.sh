#!/usr/bin/env bash
# Builds what proves and measures the CUDA backend and packs it for a machine with a GPU, together
# with the shared libraries it needs beyond glibc, the driver and CUDA's own.
# Usage: tests/gpu/bundle.sh [FILE.tar.gz]   (default: build-cuda/gpu-bundle.tar.gz)
# COGSERVE_CUDA_ARCHITECTURES is what it compiles for (default: 80;90, for GPUs of 8.x and 9.0).
# Give 100 for B200 and B300, 120 for RTX 50: else they run what the driver makes of H100's PTX, and
# not what the server ships.
set -euo pipefail
cd "$(dirname "$0")/../.."

file=$(realpath -m "${1:-build-cuda/gpu-bundle.tar.gz}")
most=$((60 << 20))
export COGSERVE_CUDA_ARCHITECTURES=${COGSERVE_CUDA_ARCHITECTURES:-80;90}
scripts/build.sh cuda gpu

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
mkdir -p "$stage/bin" "$stage/lib"
programs=(
  tests/engine/cuda_ops_test tests/engine/golden_test tests/engine/engine_device_test
  tests/bench/gpu_kernels_bench tests/bench/gpu_model_bench command/cogserve
)
for program in "${programs[@]}"; do
  strip -o "$stage/bin/$(basename "$program")" "build-cuda/$program"
  # "libname => /path (address)"; the rest are glibc's own, the driver's and CUDA's.
  ldd "build-cuda/$program" | awk '$2 == "=>" && $3 ~ /^\// {print $3}' |
    grep -Ev '/(libc|libm|libdl|librt|libpthread|libresolv|libcuda|libcublas|libcublasLt|libcudart)\.so' |
    while read -r library; do cp -Lu "$library" "$stage/lib/"; done
done
# The compiler's own need a later glibc than all the rest: run.sh takes them only where those of the
# machine are too old.
mkdir "$stage/gcc"
mv "$stage"/lib/libstdc++.so.6 "$stage"/lib/libgcc_s.so.1 "$stage/gcc/"
cp -r tests/data/golden "$stage/golden"
cp -r tests/gpu/models "$stage/models"
for model in "$stage"/models/*; do tests/gpu/write_tokenizer.py "$model"; done
# The demo model with pictures that are drawn here: there need be neither Pillow nor fonts.
mkdir "$stage/models/demo"
cp models/demo/{config.json,generation_config.json,model.safetensors,tokenizer.json} \
  "$stage/models/demo/"
/usr/bin/python3 models/demo/draw.py --seed 7 --count 3 --out "$stage/pictures"
cp tests/gpu/{run.sh,README.md} "$stage/"
# These find each other as they do in the repository.
tools=(ask_demo.sh run_suites.py watch_memory.py serve_bench.py peer_torch.py summarise.py aims.py)
cp --parents scripts/with-server.sh tests/e2e/expect_output.py "${tools[@]/#/tests/gpu/}" "$stage/"
git rev-parse HEAD >"$stage/commit" 2>/dev/null || echo unknown >"$stage/commit"

mkdir -p "$(dirname "$file")"
tar -C "$stage" -czf "$file" .
size=$(stat -c %s "$file")
printf '%s: %d bytes (%d MiB)\n' "$file" "$size" $((size >> 20))
if [ "$size" -gt "$most" ]; then
  echo "more than $most bytes: too large" >&2
  exit 1
fi
