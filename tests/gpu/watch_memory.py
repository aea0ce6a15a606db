#!/usr/bin/env python3
"""Runs a command and has nvidia-smi say meanwhile what of the card is in use, by whomever.

    watch_memory.py OUT.json BUS_ID COMMAND [ARGUMENT ...]

Writes {"before_gb": number, "peak_gb": number, "samples": count}; where nvidia-smi is not there or
says nothing, {}. Exits with the command's code.
"""

import json
import subprocess
import sys
import threading
from pathlib import Path

MIB = 1 << 20
QUERY = ("nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits")


def bytes_in(line):
    """None of what is no number: a part of a card has none."""
    line = line.strip()
    return int(line) * MIB if line.isdigit() else None


def used_now(bus_id):
    done = subprocess.run([*QUERY, "-i", bus_id], stdout=subprocess.PIPE, text=True, timeout=20,
                          check=False)
    return bytes_in(done.stdout)


def watch(bus_id, command):
    """(what was found, the command's exit code)."""
    before = used_now(bus_id)
    samples = []
    begun = threading.Event()

    def read(lines):
        for line in lines:
            samples.append(bytes_in(line))
            begun.set()
        begun.set()

    with subprocess.Popen([*QUERY, "-i", bus_id, "-lms", "100"], stdout=subprocess.PIPE,
                          text=True) as smi:
        reader = threading.Thread(target=read, args=(smi.stdout,))
        reader.start()
        begun.wait(20)
        code = subprocess.run(command, check=False).returncode
        smi.terminate()
        reader.join()
    samples = [sample for sample in samples if sample is not None]
    if before is None or not samples:
        return {}, code
    return {"before_gb": before / 1e9, "peak_gb": max(samples) / 1e9, "samples": len(samples)}, code


def main():
    out, bus_id, *command = sys.argv[1:]
    Path(out).write_text("{}\n")
    try:
        found, code = watch(bus_id, command)
    except (FileNotFoundError, subprocess.TimeoutExpired) as why:
        print(f"nvidia-smi: {why}", flush=True)
        found, code = {}, subprocess.run(command, check=False).returncode
    Path(out).write_text(json.dumps(found) + "\n")
    sys.exit(code)


if __name__ == "__main__":
    main()
