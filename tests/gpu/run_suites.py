#!/usr/bin/env python3
"""Runs a GoogleTest program suite by suite, so that a hang, or an error that stays, costs one suite.

    run_suites.py OUT.json SECONDS SUITE_SECONDS PROGRAM [ARGUMENT ...]

All together take at most SECONDS, each at most SUITE_SECONDS. Writes, anew after each suite,
{"<suite>": {"exit": code, "seconds": number, "report": GoogleTest's own JSON beside it}, ...} where
the code is null of a suite that was not begun, and 124 of one that ran out of time. Exits with 1
unless all passed.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

OUT_OF_TIME = 124
SECONDS_TO_DIE = 5


def suites_of(listing):
    """Of what --gtest_list_tests prints, where tests are indented and a type's name is a comment.

    >>> suites_of("Running main() from x.cc\\nA.\\n  one\\nB/C.  # TypeParam = int\\n  two\\n")
    ['A', 'B/C']
    """
    lines = [line.split("#")[0].rstrip() for line in listing.splitlines()]
    return [line[:-1] for line in lines if line.endswith(".") and not line.startswith(" ")]


def run(command, limit):
    """The exit code; a process that does not die, since its device hangs, is left behind."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        process.kill()
    try:
        process.wait(SECONDS_TO_DIE)
    except subprocess.TimeoutExpired:
        print(f"{command[0]} cannot be ended", flush=True)
    return OUT_OF_TIME


def main():
    out = Path(sys.argv[1])
    limit, limit_of_one = float(sys.argv[2]), float(sys.argv[3])
    program = sys.argv[4:]
    end = time.monotonic() + limit
    listing = subprocess.run(program + ["--gtest_list_tests"], stdout=subprocess.PIPE, text=True,
                             timeout=limit, check=True).stdout
    suites = {name: {"exit": None, "seconds": 0, "report": f"{out.stem}-{number}.json"}
              for number, name in enumerate(suites_of(listing))}

    def write():
        # Replaced whole: a run that is cut off leaves what it had.
        beside = out.with_suffix(".new")
        beside.write_text(json.dumps(suites, indent=1) + "\n")
        os.replace(beside, out)

    write()
    for name, suite in suites.items():
        left = end - time.monotonic()
        if left <= 0:
            break
        print(f"--- {name}", flush=True)
        began = time.monotonic()
        suite["exit"] = run(program + [f"--gtest_filter={name}.*",
                                       f"--gtest_output=json:{out.with_name(suite['report'])}"],
                            min(left, limit_of_one))
        suite["seconds"] = round(time.monotonic() - began, 1)
        write()
    sys.exit(not suites or any(suite["exit"] != 0 for suite in suites.values()))


if __name__ == "__main__":
    main()
