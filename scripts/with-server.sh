#!/usr/bin/env bash
# Runs a command beside a server on loopback; COGSERVE_SERVER holds its address. It serves the demo
# model unless COGSERVE_MODEL names another; environment variables set its other flags too, but not
# those of its log, which is read here.
# Exits with the command's code, or with the server's if that did not drain and stop cleanly.
# Usage: scripts/with-server.sh COGSERVE COMMAND [ARG ...]
set -euo pipefail

cogserve=$1
shift
model=${COGSERVE_MODEL:-$(cd "$(dirname "$0")/.." && pwd)/models/demo}
log=$(mktemp)
server=

finish() {
  local code=$?
  if [ -n "$server" ] && kill -TERM "$server" 2>/dev/null; then
    wait "$server" || code=$?
  fi
  if [ "$code" -ne 0 ]; then  # it may say why
    echo "The server's log:" >&2
    cat "$log" >&2
  fi
  rm -f "$log"
  exit "$code"
}
trap finish EXIT

"$cogserve" serve --model "$model" --grpc-port 0 --log-format text --log-level info \
  >"$log" 2>&1 &
server=$!
address=
for _ in $(seq 600); do  # the server says where it listens
  address=$(sed -n 's/.*listening.*address=\([^ ]*\).*/\1/p' "$log" | head -n 1)
  if [ -n "$address" ] || ! kill -0 "$server" 2>/dev/null; then break; fi
  sleep 0.1
done
if [ -z "$address" ]; then
  echo "The server did not start." >&2
  exit 1
fi
"$cogserve" health --server "$address" --wait 60s >/dev/null
COGSERVE_SERVER=$address "$@"
