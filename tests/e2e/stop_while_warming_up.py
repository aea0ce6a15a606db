#!/usr/bin/env python3
"""A server that is still warming up must say so, and stop at once when told to.

Usage: stop_while_warming_up.py COGSERVE DEMO_MODEL_DIR SCRATCH_DIR
"""
import json
import pathlib
import shutil
import signal
import subprocess
import sys
import threading


def main():
    cogserve, demo, scratch = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
    # Pictures of the published size: on one thread their warm-up takes long even in this tower.
    scratch.mkdir(parents=True, exist_ok=True)
    config = json.loads((demo / "config.json").read_text(encoding="utf-8"))
    config["vision_config"] |= {"image_size": 1344, "num_positions": 9217, "num_hidden_layers": 24}
    config["max_position_embeddings"] = 4096
    (scratch / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for name in ("generation_config.json", "tokenizer.json"):
        shutil.copy(demo / name, scratch)
    server = subprocess.Popen([cogserve, "serve", "--model", str(scratch), "--load-format", "dummy",
                               "--threads", "1", "--grpc-port", "0"], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True)
    giving_up = threading.Timer(60, server.kill)
    giving_up.start()
    said = []
    for line in server.stdout:
        said.append(line)
        if " warming_up " in line:
            server.send_signal(signal.SIGTERM)
    giving_up.cancel()
    code = server.wait()
    print("".join(said))
    if code != 0 or not any("warming_up" in line for line in said):
        sys.exit(f"The server exited with {code}")
    if any(" warmed_up " in line or " serving " in line for line in said):
        sys.exit("The server went on after SIGTERM")
    if "--no-warmup" not in "".join(said):
        sys.exit("The server did not say how to do without")


if __name__ == "__main__":
    main()
