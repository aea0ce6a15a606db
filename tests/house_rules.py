#!/usr/bin/env python3
"""Checks the rules of the house: who may include whom, how long files and functions may be.

Usage: house_rules.py [REPOSITORY]. Prints each violation as file:line and exits 1 if there is one.
"""
import doctest
import pathlib
import re
import subprocess
import sys

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60
MAX_KERNEL_LINES = 100  # under engine/backend
SOURCE_SUFFIXES = {".cpp", ".hpp", ".cu", ".cuh", ".py", ".proto", ".sh"}

# Room (longest prefix wins) -> prefixes of project headers it may include.
ROOMS = {
    "engine/base": ["engine/base"],
    "engine/backend": ["engine/backend", "engine/base"],
    "engine/backend/cpu": ["engine/backend/cpu", "engine/backend/backend.hpp",
                           "engine/backend/sampling.hpp", "engine/backend/shape_checks.hpp",
                           "engine/backend/weight.hpp", "engine/base"],
    "engine/backend/cuda": ["engine/backend/cuda", "engine/backend/backend.hpp",
                            "engine/backend/sampling.hpp", "engine/backend/shape_checks.hpp",
                            "engine/backend/weight.hpp", "engine/base"],
    "engine/model": ["engine/model", "engine/backend/backend.hpp",
                     "engine/backend/device_traits.hpp", "engine/backend/weight.hpp",
                     "engine/config.hpp", "engine/base"],
    "engine/schedule": ["engine/schedule", "engine/request.hpp", "engine/token_stream.hpp",
                        "engine/backend/sampling.hpp", "engine/config.hpp", "engine/base"],
    "engine/run": ["engine/"],
    "engine": ["engine/"],
    "server/image": ["server/image", "engine/base"],
    "server/text": ["server/text", "engine/base"],
    "server": ["server/", "engine/engine.hpp", "engine/request.hpp", "engine/token_stream.hpp",
               "engine/config.hpp", "engine/memory_plan.hpp", "engine/base",
               "command/option_table.hpp", "cogserve/v1",
               "google/rpc"],
    "client": ["client/", "command/option_table.hpp", "cogserve/v1", "google/rpc"],
    "command": ["command/", "server/memory_flags.hpp", "server/plan.hpp",
                "server/progress_line.hpp", "server/serve.hpp", "client/commands.hpp",
                "engine/quantize_checkpoint.hpp", "engine/base"],
    "tests": ["engine/", "server/", "client/", "command/", "tests/", "cogserve/v1", "google/rpc"],
}

# Headers of other projects that are kept to a room.
FENCED = {
    r"grpcpp/|grpc/": ["server/", "client/", "tests/"],
    r"opencv2/": ["server/image/", "server/preprocess", "tests/"],
    r"cuda|cublas": ["engine/backend/cuda/", "tests/"],
    r"spdlog/": ["server/", "command/", "tests/"],
    r"hwy/": ["engine/backend/cpu/", "server/image/", "tests/"],
}

# Generated tables may be long.
GENERATED = re.compile(r"unicode_classes")
FORBIDDEN_WORDS = re.compile(r"TODO|FIXME|XXX|HACK")


def tracked_files(root):
    listing = subprocess.run(["git", "-C", root, "ls-files", "--cached", "--others",
                              "--exclude-standard"], capture_output=True, text=True, check=False)
    if listing.returncode == 0:
        names = listing.stdout.splitlines()
    else:  # an exported tree
        names = [str(p.relative_to(root)) for p in pathlib.Path(root).rglob("*") if p.is_file()]
    return sorted(n for n in names if pathlib.Path(n).suffix in SOURCE_SUFFIXES
                  and not n.startswith("build") and (pathlib.Path(root) / n).is_file())


def room_of(name):
    matches = [room for room in ROOMS if name.startswith(room + "/")]
    return max(matches, key=len, default=None)


def include_faults(name, lines):
    room = room_of(name)
    for number, line in enumerate(lines, 1):
        match = re.match(r'\s*#\s*include\s*(["<])([^">]+)[">]', line)
        if not match:
            continue
        header = match.group(2)
        for pattern, rooms in FENCED.items():
            if re.match(pattern, header) and not any(name.startswith(r) for r in rooms):
                yield number, f"{header} may be included only under {', '.join(rooms)}"
        top = header.split("/")[0]
        if room and top in {"engine", "server", "client", "command", "tests", "cogserve", "google"}:
            if header.startswith("google/protobuf"):
                continue
            if not any(header.startswith(prefix) for prefix in ROOMS[room]):
                yield number, f"{room} may not include {header}"


# What begins at column 0 and is no function. A const value has its `=` or `{` before any `(`; what
# returns one has not.
NO_FUNCTION = re.compile(
    r"(namespace|class|struct|enum|union|using|extern|public|private)\b|TEST|INSTANTIATE|HWY_|"
    r"((static|inline) )*(const|constexpr)\b[^(]*[={;]")


def function_faults(name, lines):
    """Functions at namespace level: from the line that opens at column 0 to a `}` at column 0.

    >>> list(function_faults("x.cpp", ["const T& f() {", *60 * [""], "}"]))
    [(1, 'function of 62 lines, the limit is 60')]
    >>> list(function_faults("x.cpp", ["constexpr int f() {", *60 * [""], "}"]))
    [(1, 'function of 62 lines, the limit is 60')]
    >>> list(function_faults("x.cpp", ["const std::vector<F> kAll = {", *60 * ["    f(),"], "};"]))
    []
    """
    if not name.endswith((".cpp", ".hpp", ".cu", ".cuh")):
        return
    limit = MAX_KERNEL_LINES if name.startswith("engine/backend") else MAX_FUNCTION_LINES
    start = None
    for number, line in enumerate(lines, 1):
        if start is None:
            if line.rstrip().endswith("}"):  # a whole function in one line
                continue
            if re.match(r"[A-Za-z_\[~]", line) and not NO_FUNCTION.match(line):
                start = number
        elif line.startswith("}"):
            if number - start + 1 > limit:
                yield start, f"function of {number - start + 1} lines, the limit is {limit}"
            start = None
        elif line.rstrip().endswith(";") and not line.startswith((" ", "\t")):
            start = None


def faults_of(root, name):
    lines = (pathlib.Path(root) / name).read_text(encoding="utf-8").splitlines()
    if len(lines) > MAX_FILE_LINES and not GENERATED.search(name):
        yield 1, f"file of {len(lines)} lines, the limit is {MAX_FILE_LINES}"
    if name != "tests/house_rules.py":
        for number, line in enumerate(lines, 1):
            if FORBIDDEN_WORDS.search(line):
                yield number, "left-over marker"
    if (name.endswith(".hpp") and not name.endswith("-inl.hpp")  # has a guard of its own
            and "#pragma once" not in lines):
        yield 1, "header without #pragma once"
    yield from include_faults(name, lines)
    yield from function_faults(name, lines)


def main():
    if doctest.testmod().failed:
        sys.exit(1)
    root = sys.argv[1] if len(sys.argv) > 1 else "."
    names = tracked_files(root)
    faults = [(name, line, text) for name in names for line, text in faults_of(root, name)]
    for name, line, text in faults:
        print(f"{name}:{line}: {text}")
    print(f"{len(names)} files checked, {len(faults)} violations")
    sys.exit(1 if faults or not names else 0)


if __name__ == "__main__":
    main()
