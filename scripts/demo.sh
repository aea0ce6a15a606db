#!/usr/bin/env bash
# Draws three pictures and asks a server of the demo model about them. Called by `make demo`.
set -euo pipefail
cd "$(dirname "$0")/.."

cogserve=build/command/cogserve
python=/usr/bin/python3  # the one that apt's Pillow and NumPy belong to
pictures=$(mktemp -d)
trap 'rm -rf "$pictures"' EXIT

$python models/demo/draw.py --seed "${COGSERVE_DEMO_SEED:-$(date +%s)}" --count 3 --out "$pictures"
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then $python scripts/show_pictures.py "$pictures"; fi
env -u COGSERVE_MODEL scripts/with-server.sh "$cogserve" "$cogserve" demo "$pictures"
