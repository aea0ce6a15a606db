#!/usr/bin/env python3
"""summarise.py on what run.sh leaves: a whole run, and runs in which something is wrong.

The files in fixtures/ have the form of the programs' own output. The tests' are recorded from the
emulator, the model's and the server's from the CPU at a toy's shape; there was no GPU for the kernels' and the
peer's, whose numbers are made up.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent


class SummariseTest(unittest.TestCase):
    def setUp(self):
        self.temporary = tempfile.TemporaryDirectory()
        self.addCleanup(self.temporary.cleanup)
        self.folder = Path(self.temporary.name) / "out"
        shutil.copytree(HERE / "fixtures", self.folder)
        for name in ("ops", "engine"):
            shutil.copy(self.folder / "golden.json", self.folder / f"{name}.json")

    def summarise(self):
        """(exit code, what was printed, results.json)."""
        command = [sys.executable, str(HERE / "summarise.py"), str(self.folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        self.assertEqual(done.stderr, "")
        return done.returncode, done.stdout, json.loads((self.folder / "results.json").read_text())

    def replace(self, file, old, new):
        path = self.folder / file
        text = path.read_text()
        self.assertIn(old, text)
        path.write_text(text.replace(old, new, 1))

    def assert_fault(self, fault):
        code, printed, results = self.summarise()
        self.assertEqual(code, 1)
        self.assertIn(fault, results["faults"])
        self.assertIn(fault, printed)

    def test_a_whole_run_passes_and_is_shown(self):
        code, printed, results = self.summarise()
        self.assertEqual(code, 0, printed)
        self.assertEqual(results["faults"], [])
        self.assertEqual(results["tests"]["golden"], {"passed": 2, "failed": 0, "skipped": 0})
        self.assertIn("Everything was run and passed.", printed)
        # A kernel beside the machine's limits and PyTorch.
        row = next(line for line in printed.splitlines() if line.startswith("decoder_qkv_1 "))
        self.assertEqual(row.split()[1:], ["20.0", "1%", "50%", "30.0", "1.50"])
        self.assertIn("longest_ms", printed)
        self.assertIn("request_throughput", next(l for l in printed.splitlines() if l.startswith("w3 ")))

    def test_a_part_without_its_tool_is_absent_and_no_fault(self):
        for name in ("peer", "memcheck", "racecheck"):
            self.replace("parts.txt", f"{name} 0", f"{name} absent")
        (self.folder / "peer.json").unlink()
        code, printed, _ = self.summarise()
        self.assertEqual(code, 0, printed)
        self.assertIn("memcheck    absent", printed)

    def test_a_missing_part_is_a_fault(self):
        for name in ("ops", "golden", "engine", "kernels", "model", "serve", "peer", "memcheck", "racecheck"):
            with self.subTest(name):
                before = (self.folder / "parts.txt").read_text()
                self.replace("parts.txt", f"{name} 0", f"else-{name} 0")
                self.assert_fault(f"{name} is missing")
                (self.folder / "parts.txt").write_text(before)

    def test_a_part_that_fails_or_is_too_slow_is_a_fault(self):
        self.replace("parts.txt", "model 0", "model 1")
        self.assert_fault("model failed with exit code 1")
        self.replace("parts.txt", "kernels 0", "kernels 124")
        self.assert_fault("kernels ran out of time")
        self.replace("parts.txt", "golden 0", "golden absent")
        self.assert_fault("golden is absent")

    def test_a_measurement_without_room_is_a_fault(self):
        model = json.loads((self.folder / "model.json").read_text())
        model["decode_64"] = {"needed_tokens": 100, "room_tokens": 10}
        (self.folder / "model.json").write_text(json.dumps(model))
        self.assert_fault("model: decode_64 had no room in the KV cache")

    def test_results_that_are_missing_or_broken_are_a_fault(self):
        (self.folder / "engine.json").unlink()
        self.assert_fault("engine left no results")
        (self.folder / "model.json").write_text('{"load": {"sec')
        self.assert_fault("model left no results")
        (self.folder / "peer.json").unlink()
        self.assert_fault("peer left no results")

    def test_a_skipped_test_is_a_fault(self):
        self.replace("golden.json", '"result": "COMPLETED"', '"result": "SKIPPED"')
        self.assert_fault("golden: 0 tests failed, 1 were skipped")

    def test_a_failed_test_is_a_fault(self):
        self.replace("golden.json", '"result": "COMPLETED"', '"failures": [{}], "result": "COMPLETED"')
        self.assert_fault("golden: 1 tests failed, 0 were skipped")

    def test_an_empty_folder_is_a_fault(self):
        shutil.rmtree(self.folder)
        self.folder.mkdir()
        self.assert_fault("ops is missing")


if __name__ == "__main__":
    unittest.main()
