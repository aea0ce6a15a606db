#!/usr/bin/env python3
"""Makes results.json and a table of what run.sh left in a folder: summarise.py FOLDER

parts.txt has a line for each part: its name, its exit code, "late" if no time was left to begin it or
"absent" if the machine lacks what it needs, its seconds, and why it is absent. Tests leave what
run_suites.py writes, benchmarks {"<name>": {"<figure>": number}}.

Exits with 0 if everything was run and passed, with 4 if all that was run passed but something is
absent, else with 1: a part that is missing or failed, or a test that was skipped, proves nothing.
"""

import json
import re
import sys
from pathlib import Path

import aims

TESTS = ("ops", "golden", "engine")
DEMOS = ("demo_bf16", "demo_int4")
BENCHMARKS = ("kernels", "model", "model_int4", "cap_bf16", "cap_int4", "serve")
# What a machine may lack; then the part is "absent".
OPTIONAL = ("peer", "memcheck", "racecheck")
# Least tokens in the KV cache of what was run under a cap of memory.
LEAST_TOKENS = {"cap_bf16": 8192, "cap_int4": 24576}
SOMETHING_ABSENT = 4


def read_parts(folder):
    path = folder / "parts.txt"
    parts = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        name, code, seconds, *why = line.split(maxsplit=3)
        parts[name] = {"exit": int(code) if code.isdigit() else code, "seconds": int(seconds)}
        if why:
            parts[name]["why"] = why[0]
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


def read_tests(folder, name):
    """Counts of all suites together, and each suite's exit code and own counts; None without any."""
    suites = read_json(folder / f"{name}.json")
    if not suites:
        return None
    results = {"passed": 0, "failed": 0, "skipped": 0, "suites": suites}
    for suite in suites.values():
        report = read_json(folder / suite["report"])
        suite["tests"] = None if report is None else count_tests(report)
        for count, number in (suite["tests"] or {}).items():
            results[count] += number
    return results


def read_answers(folder, name):
    """How many of the demo's answers were right, in the client's words."""
    path = folder / f"{name}.log"
    found = re.search(r"\d+ of \d+ answers", path.read_text()) if path.exists() else None
    return found.group() if found else None


def memory_of(results, name):
    """(GB in use by the run at its peak, all that is counted in words); None if nobody looked.

    The larger of two views of the whole device, less what was in use before.
    """
    in_use = aims.figure(results, name, "memory", "in_use_gb")
    if in_use is None:
        return None
    smi = results["memory"].get(name) or {}
    before = smi.get("before_gb", 0)
    words = f"the whole device by cudaMemGetInfo: {in_use:.2f} GB"
    if smi:
        words += f", by nvidia-smi: {smi['peak_gb']:.2f} GB, and {before:.2f} GB before"
    return max(in_use, smi.get("peak_gb", 0)) - before, words


def ending(code):
    """What is wrong with an exit code; None if nothing is."""
    if code in (124, 137):
        return "ran out of time"
    return None if code == 0 else f"failed with exit code {code}"


def faults_of_parts(parts):
    for name in TESTS + DEMOS + BENCHMARKS + OPTIONAL:
        code = parts.get(name, {}).get("exit")
        if code is None:
            yield f"{name} is missing"
        elif code == "late":
            yield f"{name} was not begun: no time was left"
        elif code != "absent":
            if wrong := ending(code):
                yield f"{name} {wrong}"
        elif name not in OPTIONAL:
            yield f"{name} is absent"


def faults_of_tests(name, results):
    if results is None:
        yield f"{name} left no results"
        return
    for suite, done in results["suites"].items():
        counts = done["tests"]
        if done["exit"] is None:
            yield f"{name}: {suite} was not begun: no time was left"
        elif wrong := ending(done["exit"]):
            yield f"{name}: {suite} {wrong}"
        elif counts is None:
            yield f"{name}: {suite} left no results"
        if counts and (counts["failed"] or counts["skipped"] or not counts["passed"]):
            yield (
                f"{name}: {suite}: {counts['failed']} tests failed, {counts['skipped']} were skipped"
            )


def faults_of_cap(name, results):
    memory = memory_of(results, name)
    cap = aims.figure(results, name, "memory", "cap_gb")
    tokens = aims.figure(results, name, "load", "kv_tokens")
    if not memory or not cap:
        yield f"{name}: nobody looked at the memory in use under a cap"
    elif memory[0] > cap:
        yield f"{name}: {memory[0]:.2f} GB in use, and {cap:.2f} GB may be"
    if (tokens or 0) < LEAST_TOKENS[name]:
        yield f"{name}: {tokens or 0:.0f} tokens in the KV cache, fewer than {LEAST_TOKENS[name]}"


def faults_of(results):
    """What keeps this run from proving everything, a sentence each."""
    parts = results["parts"]
    yield from faults_of_parts(parts)
    for name in TESTS:
        yield from faults_of_tests(name, results["tests"][name])
    for name in BENCHMARKS:
        if not results[name]:
            yield f"{name} left no results"
        for measurement, figures in results[name].items():
            if "room_tokens" in figures:
                yield f"{name}: {measurement} had no room in the KV cache"
    for name in LEAST_TOKENS:
        if results[name]:
            yield from faults_of_cap(name, results)
    if parts.get("peer", {}).get("exit") == 0 and not results["peer"]:
        yield "peer left no results"


def not_run(results):
    """What this machine lacks the tools for -> why."""
    found = {
        name: part.get("why", "nobody says why")
        for name, part in results["parts"].items()
        if part["exit"] == "absent"
    }
    for name in LEAST_TOKENS:
        if results["memory"].get(name) == {}:
            found[f"nvidia-smi beside {name}"] = "it is not there, or says nothing of this card"
    return found


def collect(folder):
    device = folder / "device.txt"
    results = {
        "device": device.read_text().strip() if device.exists() else "",
        "parts": read_parts(folder),
        "tests": {name: read_tests(folder, name) for name in TESTS},
        "answers": {name: read_answers(folder, name) for name in DEMOS},
        "memory": {name: read_json(folder / f"{name}-memory.json") for name in LEAST_TOKENS},
    }
    for name in BENCHMARKS + ("peer",):
        results[name] = read_json(folder / f"{name}.json") or {}
    results["faults"] = list(faults_of(results))
    results["not_run"] = not_run(results)
    results["unmeasured"] = list(aims.unmeasured(results))
    return results


def table_of_parts(results):
    for name, part in results["parts"].items():
        if part["exit"] == "absent":
            yield f"{name:<12}not run: {part.get('why', 'nobody says why')}"
            continue
        verdict = {"late": "LATE", 0: "passed"}.get(part["exit"], "FAILED")
        counts = results["tests"].get(name)
        tests = f"  {counts['passed']} tests" if counts else ""
        answers = results["answers"].get(name)
        answers = f"  {answers} as expected" if answers else ""
        yield f"{name:<12}{verdict:<8}{part['seconds']:>5} s{tests}{answers}"


def table_of_kernels(kernels, peer):
    limits = kernels.get("limits")
    if limits:
        yield ""
        yield "limits: " + ", ".join(f"{k} {v:.4g}" for k, v in limits.items())
        yield f"{'kernel':<32}{'us':>10}{'of matmul':>11}{'of copy':>9}{'torch us':>10}{'torch/us':>10}"
    for name, figures in kernels.items():
        if name == "limits":
            continue
        other = peer.get(name, {}).get("us")
        beside = f"{other:>10.1f}{other / figures['us']:>10.2f}" if other else ""
        shares = f"{'launch-bound':>20}"
        if not figures.get("launch_bound"):
            shares = f"{100 * figures['of_matmul']:>10.0f}%{100 * figures['of_copy']:>8.0f}%"
        yield f"{name:<32}{figures['us']:>10.1f}{shares}{beside}"


def table_of_memory(results):
    for name in LEAST_TOKENS:
        memory = memory_of(results, name)
        if memory:
            cap = aims.figure(results, name, "memory", "cap_gb") or 0
            tokens = aims.figure(results, name, "load", "kv_tokens") or 0
            yield (
                f"{name}: {memory[0]:.2f} GB in use at the peak, {cap:.2f} GB allowed,"
                f" {tokens:.0f} KV tokens ({memory[1]})"
            )


def table(results):
    yield results["device"]
    yield from table_of_parts(results)
    yield from table_of_kernels(results["kernels"], results["peer"])
    for part in BENCHMARKS[1:]:
        if results[part]:
            yield f"\n{part}"
        for name, figures in results[part].items():
            yield f"{name:<28}" + ", ".join(f"{k} {v:.4g}" for k, v in figures.items())
    yield ""
    yield from table_of_memory(results)
    yield from aims.measured(results)
    yield "\nUnmeasured:"
    yield from results["unmeasured"]
    yield ""
    yield from (f"{name} was not run: {why}" for name, why in results["not_run"].items())
    yield from results["faults"]
    if results["faults"]:
        return
    yield "All that was run passed." if results["not_run"] else "Everything was run and passed."


def main():
    folder = Path(sys.argv[1])
    results = collect(folder)
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    print("\n".join(table(results)))
    if results["faults"]:
        sys.exit(1)
    sys.exit(SOMETHING_ABSENT if results["not_run"] else 0)


if __name__ == "__main__":
    main()
