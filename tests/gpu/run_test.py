#!/usr/bin/env python3
"""run.sh and what it runs with, beside programs that stand for those of the bundle and of a GPU."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PROGRAMS = ("cuda_ops_test", "golden_test", "engine_device_test", "gpu_kernels_bench",
            "gpu_model_bench", "cogserve")

# Three suites: one is well, one ends badly, and one hangs.
PROGRAM = """#!/bin/sh
case "$*" in
  *list_tests*) printf 'Good.\\n  works\\nDtypes/Bad.  # T\\n  fails/0\\nHangs.\\n  long\\nLast.\\n  one\\n'; exit ;;
  *filter=Dtypes/Bad.\\**) exit 3 ;;
  *filter=Hangs.\\**) exec sleep 60 ;;
esac
for argument; do
  case "$argument" in --gtest_output=json:*) echo '{"said": "'"$1"'"}' >"${argument#*json:}" ;; esac
done
"""

# What it says of the card before, then again and again.
NVIDIA_SMI = """#!/bin/sh
case "$*" in
  *-lms*) echo 15000; echo 16000; echo '[N/A]'; exec sleep 60 ;;
  *"-i 0000:1b:00.0"*) echo 500 ;;
esac
"""


class FolderTest(unittest.TestCase):
    def setUp(self):
        self.temporary = tempfile.TemporaryDirectory()
        self.addCleanup(self.temporary.cleanup)
        self.folder = Path(self.temporary.name)

    def program(self, name, text):
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o755)
        return str(path)


class ToolsTest(FolderTest):
    def run_tool(self, tool, *arguments, path=None):
        environment = dict(os.environ)
        if path:
            environment["PATH"] = path
        command = [sys.executable, str(HERE / tool), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    def run_suites(self, seconds, seconds_of_one):
        out = self.folder / "ops.json"
        began = time.monotonic()
        done = self.run_tool("run_suites.py", str(out), seconds, seconds_of_one,
                             self.program("tests", PROGRAM), "--device")
        self.assertLess(time.monotonic() - began, 30)
        return done.returncode, json.loads(out.read_text())

    def test_suites_that_fail_or_hang_cost_no_other(self):
        code, suites = self.run_suites("50", "3")
        self.assertEqual(code, 1)
        self.assertEqual({name: suite["exit"] for name, suite in suites.items()},
                         {"Good": 0, "Dtypes/Bad": 3, "Hangs": 124, "Last": 0})
        for name in ("Good", "Last"):
            report = json.loads((self.folder / suites[name]["report"]).read_text())
            self.assertEqual(report, {"said": "--device"})

    def test_suites_for_which_no_time_is_left_are_not_begun(self):
        code, suites = self.run_suites("4", "50")
        self.assertEqual(code, 1)
        self.assertEqual((suites["Hangs"]["exit"], suites["Last"]["exit"]), (124, None))

    def test_the_lists_of_programs_are_read(self):
        command = [sys.executable, "-m", "doctest", str(HERE / "run_suites.py")]
        self.assertEqual(subprocess.run(command, check=False).returncode, 0)

    def watch(self, path, *command):
        out = self.folder / "memory.json"
        done = self.run_tool("watch_memory.py", str(out), "0000:1b:00.0", *command, path=path)
        return done.returncode, json.loads(out.read_text())

    def test_the_most_that_nvidia_smi_says_is_the_peak(self):
        self.program("nvidia-smi", NVIDIA_SMI)
        code, found = self.watch(f"{self.folder}:/usr/bin:/bin", "sh", "-c", "sleep 0.5; exit 7")
        self.assertEqual(code, 7)
        self.assertEqual(found, {"before_gb": 0.524288, "peak_gb": 16.777216, "samples": 2})

    def test_without_nvidia_smi_the_command_runs_all_the_same(self):
        self.program("end", "#!/bin/sh\nexit 7\n")
        self.assertEqual(self.watch(str(self.folder), str(self.folder / "end")), (7, {}))

    def test_an_nvidia_smi_that_knows_nothing_of_the_card_is_no_figure(self):
        self.program("nvidia-smi", "#!/bin/sh\necho '[Insufficient Permissions]'\n")
        self.assertEqual(self.watch(f"{self.folder}:/usr/bin:/bin", "true"), (0, {}))


class RunTest(FolderTest):
    def setUp(self):
        super().setUp()
        self.bundle = self.folder / "bundle"
        (self.bundle / "bin").mkdir(parents=True)
        for program in PROGRAMS:
            shutil.copy(HERE / "stand_in.py", self.bundle / "bin" / program)
        shutil.copytree(HERE, self.bundle / "tests" / "gpu")
        for tool in ("scripts/with-server.sh", "tests/e2e/expect_output.py"):
            (self.bundle / tool).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / tool, self.bundle / tool)
        tools = self.folder / "tools"
        tools.mkdir()
        for tool in ("nvidia-smi", "compute-sanitizer"):
            self.program(f"tools/{tool}", NVIDIA_SMI if tool == "nvidia-smi" else "#!/bin/sh\n")
        self.path = f"{tools}:/usr/bin:/bin"
        self.seconds = {}

    def run_bundle(self):
        """(exit code, what was printed, results.json)."""
        out = self.folder / "out"
        environment = {"PATH": self.path, "STAND_IN_FIXTURES": str(HERE / "fixtures"),
                       "PYTHONPATH": str(self.folder), **self.seconds}
        done = subprocess.run([HERE / "run.sh", self.bundle, out], capture_output=True, text=True,
                              check=False, env=environment)
        results = out / "results.json"
        printed = done.stdout + done.stderr
        return done.returncode, printed, json.loads(results.read_text()) if results.exists() else None

    def with_torch(self):
        """PyTorch that has a GPU, and measures nothing."""
        (self.folder / "torch.py").write_text("class cuda:\n is_available = staticmethod(lambda: True)\n")
        (self.bundle / "tests" / "gpu" / "peer_torch.py").write_text(
            "import pathlib, sys\npathlib.Path(sys.argv[1]).write_text('{\"add_1\": {\"us\": 3}}')\n")

    def test_every_part_is_run_and_found_again(self):
        self.with_torch()
        code, printed, results = self.run_bundle()
        self.assertEqual((code, results["faults"]), (0, []), printed)
        self.assertEqual(results["not_run"], {})
        self.assertEqual(results["tests"]["ops"]["passed"], 4)
        self.assertEqual(results["answers"]["demo_int4"], "8 of 9 answers")
        self.assertEqual(results["memory"]["cap_bf16"]["before_gb"], 0.524288)

    def test_what_the_machine_lacks_is_not_run(self):
        self.path = "/usr/bin:/bin"
        (self.folder / "torch.py").write_text("raise ImportError\n")
        code, printed, results = self.run_bundle()
        self.assertEqual((code, results["faults"]), (4, []), printed)
        self.assertEqual(set(results["not_run"]), {"peer", "memcheck", "racecheck",
                         "nvidia-smi beside cap_bf16", "nvidia-smi beside cap_int4"})

    def test_a_part_that_fails_does_not_stop_the_others(self):
        self.program("bundle/bin/gpu_model_bench", "#!/bin/sh\nexit 1\n")
        code, printed, results = self.run_bundle()
        self.assertEqual(code, 1, printed)
        self.assertIn("cap_bf16 failed with exit code 1", results["faults"])
        self.assertEqual(results["parts"]["serve"]["exit"], 0)

    def test_what_is_not_begun_before_the_end_is_late(self):
        self.seconds = {"COGSERVE_GPU_SECONDS": "0"}
        code, printed, results = self.run_bundle()
        self.assertEqual(code, 1, printed)
        self.assertIn("ops was not begun: no time was left", results["faults"])
        self.assertIn("model_int4 was not begun: no time was left", results["faults"])

    def test_without_a_device_nothing_is_run(self):
        self.program("bundle/bin/gpu_kernels_bench", "#!/bin/sh\necho no CUDA device: none\nexit 3\n")
        code, printed, results = self.run_bundle()
        self.assertEqual((code, printed, results), (3, "no CUDA device: none\n", None))


if __name__ == "__main__":
    unittest.main()
