#!/usr/bin/env bash
# Starts the server with the demo model on loopback, draws three pictures, asks about them, and
# stops the server again. Called by `make demo`.
set -euo pipefail
cd "$(dirname "$0")/.."

cogserve=build/command/cogserve
python=/usr/bin/python3  # the one that apt's Pillow and NumPy belong to
scratch=$(mktemp -d)
server=

finish() {
  local code=$?
  if [ -n "$server" ] && kill -0 "$server" 2>/dev/null; then
    kill -TERM "$server"
    wait "$server" || code=$?
  fi
  rm -rf "$scratch"
  exit "$code"
}
trap finish EXIT

$python models/demo/draw.py --seed "${COGSERVE_DEMO_SEED:-$(date +%s)}" --count 3 \
  --out "$scratch/pictures"

"$cogserve" serve --model models/demo --grpc-port 0 >"$scratch/server.log" 2>&1 &
server=$!
address=
for _ in $(seq 600); do  # the server says where it listens
  address=$(sed -n 's/.*listening.*address=\([^ ]*\).*/\1/p' "$scratch/server.log" | head -n 1)
  if [ -n "$address" ] || ! kill -0 "$server" 2>/dev/null; then break; fi
  sleep 0.1
done
if [ -z "$address" ]; then
  cat "$scratch/server.log" >&2
  echo "The server did not start." >&2
  exit 1
fi
"$cogserve" health --server "$address" --wait 60s >/dev/null
echo "cogserve serves models/demo on $address"

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then $python scripts/show_pictures.py "$scratch/pictures"; fi
"$cogserve" demo --server "$address" "$scratch/pictures"
