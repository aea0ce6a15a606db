#!/usr/bin/env bash
# Builds the Python client into a folder for PYTHONPATH, from the distribution's packages alone:
# those have no google.rpc, which pip would bring.
# Usage: install-python-client.sh PYTHON FOLDER
set -euo pipefail

python=$1
folder=$2
root=$(cd "$(dirname "$0")/../.." && pwd)
sources=$(mktemp -d)
trap 'rm -rf "$sources"' EXIT

rm -rf "$folder"
mkdir -p "$folder" "$sources/client"
cp -r "$root/proto" "$sources/proto"
cp -r "$root/client/python" "$sources/client/python"  # the build writes beside its sources
(cd "$sources/client/python" && "$python" -W ignore setup.py -q build_py --build-lib "$folder")
protoc -I"$root/proto" --python_out="$folder" google/rpc/error_details.proto google/rpc/status.proto
PYTHONPATH=$folder "$python" -c 'import cogserve'
