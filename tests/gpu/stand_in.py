#!/usr/bin/env python3
"""Stands for every program of the bundle in run_test.py, by the name that it has there.

It leaves the results that fixtures/ beside this file has, as if there were a GPU.
"""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

FIXTURES = Path(os.environ["STAND_IN_FIXTURES"])


def after(flag):
    return sys.argv[sys.argv.index(flag) + 1]


def test_program():
    if "--gtest_list_tests" in sys.argv:
        print("Sets/Golden.\n  one\nOther.\n  two")
        return
    if os.environ.get("COGSERVE_DEVICE_IS_THERE") != "1":
        sys.exit("nobody said that there is a device")
    for argument in sys.argv:
        if argument.startswith("--gtest_output=json:"):
            shutil.copy(FIXTURES / "golden-0.json", argument.partition("json:")[2])


def kernels_bench():
    if "--probe" in sys.argv:
        print("Stand-in, sm_90, 0000:1b:00.0")
    else:
        shutil.copy(FIXTURES / "kernels.json", after("--out"))


def model_bench():
    model = json.loads((FIXTURES / "model.json").read_text())
    if "--gpu-memory" in sys.argv:
        cap = int(after("--gpu-memory")) / 1e9
        model["memory"] = {"in_use_gb": cap - 1, "cap_gb": cap}
    Path(after("--out")).write_text(json.dumps(model))


def cogserve():
    command = sys.argv[1]
    if command == "serve":
        print("listening address=127.0.0.1:1", flush=True)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        signal.pause()
    elif command == "demo":
        int4 = os.environ.get("COGSERVE_QUANTIZATION") == "int4"
        dtype = "decoder int4, vision int4, else bf16" if int4 else "bf16"
        print(f"Model demo in {dtype} on {os.environ['COGSERVE_DEVICE']} (stand-in)")
        print("8 of 9 answers as expected.")
    elif command == "bench":
        result = json.loads((FIXTURES / "serve.json").read_text())[after("--workload")]
        Path(after("--result-dir"), after("--result-filename")).write_text(json.dumps(result))


if __name__ == "__main__":
    {"gpu_kernels_bench": kernels_bench, "gpu_model_bench": model_bench, "cogserve": cogserve}.get(
        Path(sys.argv[0]).name, test_program)()
