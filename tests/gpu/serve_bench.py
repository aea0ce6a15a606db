#!/usr/bin/env python3
"""Runs `cogserve bench serve` for W1 to W3 against the server at $COGSERVE_SERVER.

    serve_bench.py COGSERVE OUT.json PROMPTS CONCURRENCY

Writes {"w1": {"<figure>": number}, ...} and prints the command's own tables. Exits with 1 if a
request fails.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

WORKLOADS = ("w1", "w2", "w3")
FIGURES = ("completed", "failed", "request_throughput", "output_throughput", "mean_ttft_ms",
           "p99_ttft_ms", "mean_tpot_ms", "p99_itl_ms")


def measure(cogserve, workload, prompts, concurrency):
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([cogserve, "bench", "serve", "--workload", workload, "--num-prompts", prompts,
                        "--max-concurrency", concurrency, "--save-result", "--result-dir", folder,
                        "--result-filename", "result.json"], check=True)
        return json.loads((Path(folder) / "result.json").read_text())


def main():
    cogserve, out, prompts, concurrency = sys.argv[1:]
    found = {}
    for workload in WORKLOADS:
        result = measure(cogserve, workload, prompts, concurrency)
        found[workload] = {figure: result[figure] for figure in FIGURES}
        Path(out).write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(any(figures["failed"] for figures in found.values()))


if __name__ == "__main__":
    main()
