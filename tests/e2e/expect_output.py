#!/usr/bin/env python3
"""Runs a command that must exit with 0 and print what a regular expression finds.

CTest's own PASS_REGULAR_EXPRESSION would do without the exit code.

Usage: expect_output.py REGEX COMMAND [ARGUMENT ...]
"""
import re
import subprocess
import sys


def main():
    regex, *command = sys.argv[1:]
    said = b""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        for line in process.stdout:
            sys.stdout.buffer.write(line)
            sys.stdout.flush()
            said += line
    if process.returncode != 0:
        sys.exit(f"The command exited with {process.returncode}")
    if not re.search(regex, said.decode("utf-8", "replace"), re.DOTALL):
        sys.exit(f"The output has nothing like: {regex}")


if __name__ == "__main__":
    main()
