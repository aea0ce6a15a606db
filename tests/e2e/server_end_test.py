#!/usr/bin/env python3
"""How a serving process ends: what its callers are told, and its exit code.

Usage: server_end_test.py COGSERVE SERVE_WITH_FAULT [unittest's arguments]
"""
import random
import re
import signal
import subprocess
import sys
import threading
import time
import unittest

import grpc

from cogserve import Client, CogserveError, Message

GIVE_UP = 60  # seconds, for whatever should happen at once
QUESTION = [Message.user("What colour is the circle?")]
COGSERVE = SERVE_WITH_FAULT = ""


class Server:
    """A process that serves the demo model; its log is read as it comes."""

    def __init__(self, command, *options, port=0):
        self.process = subprocess.Popen(
            [*command, "--grpc-port", str(port), "--log-format", "text", "--no-warmup", *options],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.log = []
        self.address = ""
        self._serving = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        if not self._serving.wait(GIVE_UP) or not self.address:
            self.kill()
            raise RuntimeError("the server does not come up:\n" + "".join(self.log))

    def _read(self):
        for line in self.process.stdout:
            self.log.append(line)
            found = re.search(r" serving .*address=(\S+)", line)
            if found:
                self.address = found.group(1)
                self._serving.set()
        self._serving.set()

    def wait(self):
        """The exit code; the log is whole then."""
        try:
            return self.process.wait(GIVE_UP)
        finally:
            self.kill()

    def kill(self):
        self.process.kill()
        self.process.wait()
        self._reader.join()
        self.process.stdout.close()

    def said(self, event):
        return any(f" {event} " in line for line in self.log)


class Stream(threading.Thread):
    """A stream of tokens, read to its end."""

    def __init__(self, client, max_tokens):
        super().__init__()
        self.tokens = 0
        self.error = None
        self.finish_reason = None
        self.begun = threading.Event()  # or it failed before
        self._client = client
        self._max_tokens = max_tokens
        self.start()

    def run(self):
        try:
            answer = self._client.stream_chat(QUESTION, max_tokens=self._max_tokens,
                                              ignore_eos=True, return_token_ids=True)
            for delta in answer:
                self.tokens += len(delta.token_ids)
                self.begun.set()
            self.finish_reason = answer.answer.finish_reason
        except CogserveError as error:
            self.error = error
        self.begun.set()


class ServerEnd(unittest.TestCase):
    def start(self, command, *options, **others):
        server = Server(command, *options, **others)
        self.addCleanup(server.kill)
        client = Client(server.address)
        self.addCleanup(client.close)
        return server, client

    def begin(self, client, max_tokens):
        """A stream whose first token has come."""
        stream = Stream(client, max_tokens)
        self.assertTrue(stream.begun.wait(GIVE_UP))
        self.assertIsNone(stream.error)
        return stream

    def await_event(self, server, event):
        while not server.said(event):
            self.assertIsNone(server.process.poll())
            time.sleep(0.01)

    def expect_cut(self, stream, reason):
        """The stream ended with tokens given, and is not to be tried again."""
        stream.join(GIVE_UP)
        self.assertFalse(stream.is_alive())
        self.assertIsNotNone(stream.error)
        self.assertEqual(stream.error.code, grpc.StatusCode.UNAVAILABLE)
        self.assertEqual(stream.error.reason, reason)
        self.assertEqual(stream.error.metadata["tokens_delivered"], str(stream.tokens))
        self.assertEqual(stream.error.metadata["retryable"], "false")
        self.assertGreater(stream.tokens, 0)

    def test_a_lost_device_ends_every_stream_and_the_process(self):
        server, client = self.start([SERVE_WITH_FAULT, "lost", "3", "40"])
        streams = [Stream(client, 1000) for _ in range(3)]
        for stream in streams:
            self.expect_cut(stream, "ENGINE_RESTARTING")
        self.assertEqual(server.wait(), 76)
        self.assertTrue(server.said("engine.fault"), server.log)

    def test_a_step_that_hangs_ends_every_stream_and_the_process(self):
        server, client = self.start([SERVE_WITH_FAULT, "hang", "3", "40"], "--stall-timeout", "1s")
        streams = [Stream(client, 1000) for _ in range(3)]
        for stream in streams:
            self.expect_cut(stream, "ENGINE_STALLED")
        self.assertEqual(server.wait(), 76)
        self.assertTrue(server.said("engine.stuck"), server.log)

    def test_a_device_that_breaks_while_warming_up_ends_the_process(self):
        for fault, code, event in (("lost", 78, "startup.failed"), ("hang", 76, "engine.stuck")):
            server = subprocess.run(
                [SERVE_WITH_FAULT, fault, "1", "0", "--stall-timeout", "1s", "--grpc-port", "0"],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=GIVE_UP,
                check=False)
            self.assertEqual(server.returncode, code, server.stdout)
            self.assertIn(f" {event} ", server.stdout)
            self.assertEqual("--stall-timeout" in server.stdout, fault == "hang")

    def test_a_step_that_hangs_does_not_hold_a_second_signal(self):
        server, client = self.start([SERVE_WITH_FAULT, "hang", "1", "40"])
        stream = self.begin(client, 1000)
        self.await_event(server, "device.hangs")
        server.process.send_signal(signal.SIGTERM)
        self.await_event(server, "draining")
        server.process.send_signal(signal.SIGTERM)
        self.expect_cut(stream, "DRAINING")
        self.assertEqual(server.wait(), 0)

    def test_a_step_that_outlasts_a_drain_does_not_hold_the_process(self):
        server, client = self.start([SERVE_WITH_FAULT, "hang", "1", "40"], "--shutdown-timeout", "0")
        stream = self.begin(client, 1000)
        self.await_event(server, "device.hangs")
        server.process.send_signal(signal.SIGTERM)
        self.expect_cut(stream, "DRAINING")
        self.assertEqual(server.wait(), 0)
        self.assertIn("the engine was still computing", server.log[-1])

    def test_what_was_accepted_is_finished_whenever_the_signal_comes(self):
        chance = random.Random(1)
        for _ in range(5):
            server, client = self.start([COGSERVE, "serve"])
            streams = [self.begin(client, 300) for _ in range(4)]
            time.sleep(chance.random() * 0.2)
            server.process.send_signal(signal.SIGTERM)
            for stream in streams:
                stream.join(GIVE_UP)
                self.assertIsNone(stream.error)
                self.assertEqual((stream.tokens, stream.finish_reason), (300, "length"))
            self.assertEqual(server.wait(), 0)
            self.assertTrue(server.said("draining"), server.log)

    def test_a_killed_server_starts_again_on_its_port(self):
        server, client = self.start([COGSERVE, "serve"])
        port = int(server.address.rsplit(":", 1)[1])
        for _ in range(3):
            stream = self.begin(client, 1500)
            server.process.kill()
            stream.join(GIVE_UP)
            self.assertEqual(stream.error.code, grpc.StatusCode.UNAVAILABLE)
            self.assertEqual(server.wait(), -signal.SIGKILL)
            server, client = self.start([COGSERVE, "serve"], port=port)
        self.assertEqual(client.health(), "SERVING")


if __name__ == "__main__":
    COGSERVE, SERVE_WITH_FAULT = sys.argv[1:3]
    unittest.main(argv=sys.argv[:1] + sys.argv[3:], verbosity=2)
