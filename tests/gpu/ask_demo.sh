#!/usr/bin/env bash
# Serves the demo model on a device and has the command's own client ask about drawn pictures. Exits
# with 0 if the server says that it runs there and so, and at most two of nine answers are wrong,
# which the demo model itself may get wrong.
# Usage: ask_demo.sh COGSERVE DEVICE bf16|int4 MODEL PICTURES
set -euo pipefail
root=$(realpath "$(dirname "$0")/../..")
cogserve=$1 device=$2 format=$3 model=$4 pictures=$5

export COGSERVE_MODEL=$model COGSERVE_DEVICE=$device
case $format in
  bf16) dtype=bf16 ;;
  int4)
    dtype='decoder int4, vision int4, else bf16'
    export COGSERVE_QUANTIZATION=int4
    ;;
  *)
    echo "no such format: $format" >&2
    exit 2
    ;;
esac
# There bf16 products have to be asked for.
if [ "$device" = cpu ]; then export COGSERVE_DTYPE=bfloat16; fi
python3 "$root/tests/e2e/expect_output.py" \
  "Model demo in $dtype on $device .*[789] of 9 answers as expected[.]" \
  "$root/scripts/with-server.sh" "$cogserve" "$cogserve" demo "$pictures"
