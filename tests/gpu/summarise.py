#!/usr/bin/env python3
"""Makes results.json and a table of what run.sh left in a folder: summarise.py FOLDER

parts.txt has a line for each part: its name, its exit code or "absent", and its seconds. Tests leave
GoogleTest's JSON, benchmarks {"<name>": {"<figure>": number}}. Exits with 1 if a part is missing or
failed, or if a test was skipped: what was not run is not proved.
"""

import json
import sys
from pathlib import Path

TESTS = ("ops", "golden", "engine")
BENCHMARKS = ("kernels", "model", "serve")
# What a machine may lack; then the part is "absent".
OPTIONAL = ("peer", "memcheck", "racecheck")


def read_parts(folder):
    """name -> (exit code or None if absent, seconds)."""
    path = folder / "parts.txt"
    parts = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        name, code, seconds = line.split()
        parts[name] = (None if code == "absent" else int(code), int(seconds))
    return parts


def read_json(path):
    try:
        return json.loads(path.read_text())
    except (OSError, json.JSONDecodeError):
        return None


def count_tests(report):
    """How many passed, failed and were skipped."""
    passed = failed = skipped = 0
    for suite in report.get("testsuites", []):
        for test in suite.get("testsuite", []):
            if test.get("failures"):
                failed += 1
            elif test.get("result") == "COMPLETED":
                passed += 1
            else:
                skipped += 1
    return {"passed": passed, "failed": failed, "skipped": skipped}


def faults_of(results):
    """What keeps this run from proving everything, a sentence each."""
    parts = results["parts"]
    for name in TESTS + BENCHMARKS + OPTIONAL:
        if name not in parts:
            yield f"{name} is missing"
            continue
        code = parts[name]["exit"]
        if code is None:
            if name not in OPTIONAL:
                yield f"{name} is absent"
        elif code in (124, 137):
            yield f"{name} ran out of time"
        elif code != 0:
            yield f"{name} failed with exit code {code}"
    for name in TESTS:
        counts = results["tests"].get(name)
        if counts is None:
            yield f"{name} left no results"
        elif counts["failed"] or counts["skipped"] or not counts["passed"]:
            yield f"{name}: {counts['failed']} tests failed, {counts['skipped']} were skipped"
    for name in BENCHMARKS:
        if not results[name]:
            yield f"{name} left no results"
    for name, figures in results["model"].items():
        if "room_tokens" in figures:
            yield f"model: {name} had no room in the KV cache"
    if parts.get("peer", {}).get("exit") == 0 and not results["peer"]:
        yield "peer left no results"


def collect(folder):
    parts = read_parts(folder)
    results = {
        "device": (folder / "device.txt").read_text().strip()
        if (folder / "device.txt").exists()
        else "",
        "parts": {name: {"exit": code, "seconds": s} for name, (code, s) in parts.items()},
        "tests": {},
    }
    for name in TESTS:
        report = read_json(folder / f"{name}.json")
        results["tests"][name] = None if report is None else count_tests(report)
    for name in BENCHMARKS + ("peer",):
        results[name] = read_json(folder / f"{name}.json") or {}
    results["faults"] = list(faults_of(results))
    return results


def table(results):
    yield results["device"]
    for name, part in results["parts"].items():
        verdict = {None: "absent", 0: "passed"}.get(part["exit"], "FAILED")
        counts = results["tests"].get(name)
        tests = f"  {counts['passed']} tests" if counts else ""
        yield f"{name:<12}{verdict:<8}{part['seconds']:>5} s{tests}"
    peer = results["peer"]
    limits = results["kernels"].get("limits")
    if limits:
        yield ""
        yield "limits: " + ", ".join(f"{k} {v:.4g}" for k, v in limits.items())
        yield f"{'kernel':<32}{'us':>10}{'of matmul':>11}{'of copy':>9}{'torch us':>10}{'torch/us':>10}"
    for name, figures in results["kernels"].items():
        if name == "limits":
            continue
        other = peer.get(name, {}).get("us")
        beside = f"{other:>10.1f}{other / figures['us']:>10.2f}" if other else ""
        yield (
            f"{name:<32}{figures['us']:>10.1f}{100 * figures['of_matmul']:>10.0f}%"
            f"{100 * figures['of_copy']:>8.0f}%{beside}"
        )
    for part in ("model", "serve"):
        if results[part]:
            yield ""
        for name, figures in results[part].items():
            yield f"{name:<28}" + ", ".join(f"{k} {v:.4g}" for k, v in figures.items())
    yield ""
    yield from results["faults"] or ["Everything was run and passed."]


def main():
    folder = Path(sys.argv[1])
    results = collect(folder)
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    print("\n".join(table(results)))
    sys.exit(1 if results["faults"] else 0)


if __name__ == "__main__":
    main()
