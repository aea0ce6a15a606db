#!/usr/bin/env python3
"""summarise.py on what run.sh leaves: a whole run, and runs in which something is wrong.

The files in fixtures/ have the form of the programs' own output. The tests' are recorded from the
emulator, the model's and the server's from the CPU at a toy's shape; there was no GPU for the kernels',
the peer's and the memory's, whose numbers are made up.
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
        shutil.copy(self.folder / "model.json", self.folder / "model_int4.json")
        for name, cap in (("cap_bf16", 42.0), ("cap_int4", 17.18)):
            self.write(f"{name}-memory.json", {"before_gb": 0.5, "peak_gb": cap - 1, "samples": 9})
            model = self.read("model.json")
            model["memory"] = {"in_use_gb": cap - 2, "cap_gb": cap}
            self.write(f"{name}.json", model)
        for name in ("demo_bf16", "demo_int4"):
            (self.folder / f"{name}.log").write_text("8 of 9 answers as expected.\n")

    def read(self, file):
        return json.loads((self.folder / file).read_text())

    def write(self, file, content):
        (self.folder / file).write_text(json.dumps(content))

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
        golden = results["tests"]["golden"]
        self.assertEqual([golden[c] for c in ("passed", "failed", "skipped")], [2, 0, 0])
        self.assertIn("8 of 9 answers as expected", printed)
        self.assertEqual(results["not_run"], {})
        self.assertIn("Everything was run and passed.", printed)
        # A kernel beside the machine's limits and PyTorch.
        row = next(line for line in printed.splitlines() if line.startswith("decoder_qkv_1 "))
        self.assertEqual(row.split()[1:], ["20.0", "1%", "50%", "30.0", "1.50"])
        # One that only launches claims no share.
        row = next(line for line in printed.splitlines() if line.startswith("add_1 "))
        self.assertEqual(row.split()[1:], ["2.5", "launch-bound"])
        self.assertIn("longest_ms 6.847, max_itl_ms 50", printed)
        self.assertIn(
            "cap_bf16: 40.50 GB in use at the peak, 42.00 GB allowed, 524288 KV tokens"
            " (the whole device by cudaMemGetInfo: 40.00 GB, by nvidia-smi: 41.00 GB, and 0.50 GB"
            " before)", printed)
        self.assertIn("request_throughput", next(l for l in printed.splitlines() if l.startswith("w3 ")))

    def test_a_part_without_its_tool_is_named_and_has_an_exit_code_of_its_own(self):
        for name in ("peer", "memcheck", "racecheck"):
            parts = (self.folder / "parts.txt").read_text().splitlines()
            parts = [f"{name} absent 0 no such tool" if p.startswith(name) else p for p in parts]
            (self.folder / "parts.txt").write_text("\n".join(parts) + "\n")
        (self.folder / "peer.json").unlink()
        code, printed, results = self.summarise()
        self.assertEqual(code, 4, printed)
        self.assertEqual(results["faults"], [])
        self.assertEqual(set(results["not_run"].values()), {"no such tool"})
        self.assertIn("memcheck    not run: no such tool", printed)
        self.assertIn("All that was run passed.", printed)
        self.assertNotIn("Everything", printed)

    def test_a_fault_counts_more_than_what_was_not_run(self):
        self.replace("parts.txt", "peer 0", "peer absent")
        self.replace("parts.txt", "model 0", "model 1")
        self.assert_fault("model failed with exit code 1")

    def test_a_missing_part_is_a_fault(self):
        for line in (self.folder / "parts.txt").read_text().splitlines():
            name = line.split()[0]
            with self.subTest(name):
                before = (self.folder / "parts.txt").read_text()
                self.replace("parts.txt", line, f"else-{line}")
                self.assert_fault(f"{name} is missing")
                (self.folder / "parts.txt").write_text(before)

    def test_a_part_that_fails_or_is_too_slow_is_a_fault(self):
        self.replace("parts.txt", "model 0", "model 1")
        self.assert_fault("model failed with exit code 1")
        self.replace("parts.txt", "kernels 0", "kernels 124")
        self.assert_fault("kernels ran out of time")
        self.replace("parts.txt", "golden 0", "golden absent")
        self.assert_fault("golden is absent")
        self.replace("parts.txt", "memcheck 0", "memcheck late")
        self.assert_fault("memcheck was not begun: no time was left")

    def test_a_suite_that_hangs_crashes_or_is_not_begun_is_a_fault(self):
        golden = self.read("golden.json")
        for code, fault in ((124, "ran out of time"), (-11, "failed with exit code -11"),
                            (None, "was not begun: no time was left")):
            golden["Other"] = {"exit": code, "seconds": 1, "report": "golden-1.json"}
            self.write("golden.json", golden)
            self.assert_fault(f"golden: Other {fault}")
        golden["Other"]["exit"] = 0
        self.write("golden.json", golden)
        self.assert_fault("golden: Other left no results")
        self.assertEqual(self.read("results.json")["tests"]["golden"]["passed"], 2)

    def test_memory_above_its_cap_is_a_fault(self):
        self.write("cap_bf16-memory.json", {"before_gb": 0.25, "peak_gb": 42.5, "samples": 9})
        self.assert_fault("cap_bf16: 42.25 GB in use, and 42.00 GB may be")
        self.write("cap_bf16-memory.json", {})
        self.replace("cap_bf16.json", '"in_use_gb": 40.0', '"in_use_gb": 42.1')
        self.assert_fault("cap_bf16: 42.10 GB in use, and 42.00 GB may be")
        self.replace("cap_bf16.json", '"cap_gb": 42.0', '"cap_gb": 0.0')
        self.assert_fault("cap_bf16: nobody looked at the memory in use under a cap")

    def test_a_small_cache_under_a_cap_is_a_fault(self):
        self.replace("cap_bf16.json", '"kv_tokens": 524288.0', '"kv_tokens": 8191.0')
        self.assert_fault("cap_bf16: 8191 tokens in the KV cache, fewer than 8192")
        self.replace("cap_int4.json", '"kv_tokens": 524288.0', '"kv_tokens": 24575.0')
        self.assert_fault("cap_int4: 24575 tokens in the KV cache, fewer than 24576")

    def test_without_nvidia_smi_memory_is_judged_and_that_is_said(self):
        self.write("cap_int4-memory.json", {})
        code, printed, results = self.summarise()
        self.assertEqual(code, 4, printed)
        self.assertEqual(list(results["not_run"]), ["nvidia-smi beside cap_int4"])
        self.assertIn("(the whole device by cudaMemGetInfo: 15.18 GB)", printed)

    def test_what_is_not_measured_is_named(self):
        _, printed, results = self.summarise()
        self.assertTrue(any("page cache" in sentence for sentence in results["unmeasured"]))
        self.assertIn("every aim for an H200: this is another device", results["unmeasured"])
        for sentence in results["unmeasured"]:
            self.assertIn(sentence, printed)

    def test_on_an_h200_figures_stand_beside_their_aims(self):
        (self.folder / "device.txt").write_text("NVIDIA H200, sm_90\n")
        _, printed, results = self.summarise()
        self.assertIn("bf16, a token at batch 32: at most 8.0 ms, then 7.2", results["unmeasured"])
        (self.folder / "device.txt").write_text("NVIDIA GH200 480GB, sm_90\n")
        self.assertIn("every aim for an H200: this is another device", self.summarise()[2]["unmeasured"])
        self.assertFalse(any("batch 1:" in sentence for sentence in results["unmeasured"]))
        row = next(l for l in printed.splitlines() if l.startswith("bf16, a token at batch 1 "))
        self.assertIn("0.01 ms aim: at most 4.5 ms, then 4.2", row)
        self.assertIn("int4's prefill to bf16's", printed)

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
        self.replace("golden-0.json", '"result": "COMPLETED"', '"result": "SKIPPED"')
        self.assert_fault("golden: Sets/Golden: 0 tests failed, 1 were skipped")

    def test_a_failed_test_is_a_fault(self):
        self.replace("golden-0.json", '"result": "COMPLETED"', '"failures": [{}], "result": "COMPLETED"')
        self.assert_fault("golden: Sets/Golden: 1 tests failed, 0 were skipped")

    def test_an_empty_folder_is_a_fault(self):
        shutil.rmtree(self.folder)
        self.folder.mkdir()
        self.assert_fault("ops is missing")


if __name__ == "__main__":
    unittest.main()
