"""Tests of the Python client against a server in this process.

With COGSERVE_SERVER=host:port in the environment also against a real one; that needs
COGSERVE_TEST_IMAGE, a picture to ask about.

    python tests/client/python_client_test.py
"""

import asyncio
import concurrent.futures
import os
import pickle
import threading
import unittest
import unittest.mock

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.wrappers_pb2 import Int32Value, StringValue
from google.rpc import error_details_pb2, status_pb2

from cogserve import AsyncClient, Client, CogserveError, Image, Message
from cogserve.v1 import cogserve_pb2 as pb


class Refusal(Exception):
    def __init__(self, code, reason="", field="", retry_after=None):
        super().__init__(reason)
        details = []
        if reason:
            details.append(error_details_pb2.ErrorInfo(reason=reason, metadata={"got": "3"}))
        if field:
            bad_request = error_details_pb2.BadRequest()
            bad_request.field_violations.add(field=field)
            details.append(bad_request)
        if retry_after is not None:
            retry = error_details_pb2.RetryInfo()
            retry.retry_delay.FromMilliseconds(int(retry_after * 1000))
            details.append(retry)
        self.code = code
        self.status = status_pb2.Status(code=code.value[0], message="refused")
        for detail in details:
            packed = Any()
            packed.Pack(detail)
            self.status.details.append(packed)

    def end(self, context):
        context.set_trailing_metadata(
            (("grpc-status-details-bin", self.status.SerializeToString()),)
        )
        context.abort(self.code, self.status.message)


class Authorizations(grpc.ServerInterceptor):
    """What each call said of who makes it."""

    def __init__(self):
        self.seen = []

    def intercept_service(self, continuation, details):
        self.seen.append(dict(details.invocation_metadata).get("authorization"))
        return continuation(details)


class FakeServer:
    """Answers with the words of the last question; `refusals` come first, one a call."""

    def __init__(self):
        self.requests = []
        self.refusals = []
        self.broken_after = None
        self.hang_after = None
        self.leave_out_final = False
        self.serving = 1
        self.ended = threading.Event()
        self.authorizations = Authorizations()
        self._server = grpc.server(
            concurrent.futures.ThreadPoolExecutor(4), interceptors=(self.authorizations,)
        )
        self._server.add_generic_rpc_handlers((self._handlers(), self._health_handlers()))
        self.target = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def stop(self):
        self._server.stop(None).wait()

    def _handlers(self):
        return grpc.method_handlers_generic_handler(
            "cogserve.v1.CogServe",
            {
                "Chat": grpc.unary_unary_rpc_method_handler(
                    self._chat, pb.ChatRequest.FromString, pb.ChatResponse.SerializeToString
                ),
                "StreamChat": grpc.unary_stream_rpc_method_handler(
                    self._stream_chat,
                    pb.ChatRequest.FromString,
                    pb.StreamChatResponse.SerializeToString,
                ),
                "GetModel": grpc.unary_unary_rpc_method_handler(
                    lambda request, context: pb.Model(
                        name="demo",
                        default_template=pb.TEMPLATE_VQA,
                        limits=pb.Limits(max_model_len=512),
                    ),
                    pb.GetModelRequest.FromString,
                    pb.Model.SerializeToString,
                ),
            },
        )

    def _health_handlers(self):
        def check(request, context):
            if request.value:
                context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
            return Int32Value(value=self.serving)

        return grpc.method_handlers_generic_handler(
            "grpc.health.v1.Health",
            {
                "Check": grpc.unary_unary_rpc_method_handler(
                    check, StringValue.FromString, Int32Value.SerializeToString
                )
            },
        )

    def _words(self, request, context):
        self.requests.append(request)
        if self.refusals:
            self.refusals.pop(0).end(context)
        return request.messages[-1].parts[-1].text.split()

    def _chat(self, request, context):
        words = self._words(request, context)
        return pb.ChatResponse(
            text=" ".join(words),
            finish_reason=pb.FINISH_REASON_STOP,
            usage=pb.Usage(prompt_tokens=9, image_tokens=4, completion_tokens=len(words)),
            timings=pb.Timings(vision_ms=2.5),
            logprobs=[
                pb.TokenLogprob(
                    token_id=1,
                    token=b"\xe7",
                    logprob=-0.5,
                    top=[pb.TopLogprob(token_id=2, token=b"x", logprob=-1.5)],
                )
            ],
        )

    def _stream_chat(self, request, context):
        # At the start: a call that is cancelled after a yield is never resumed here.
        context.add_callback(self.ended.set)
        words = self._words(request, context)
        for number, word in enumerate(words):
            if number == self.broken_after:
                Refusal(grpc.StatusCode.UNAVAILABLE, "ENGINE_RESTARTING", retry_after=0).end(context)
            if number == self.hang_after:
                self.ended.wait()
                return
            yield pb.StreamChatResponse(
                request_id="fake-1" if number == 0 else "",
                delta=pb.Delta(text=word, token_ids=[number]),
            )
        if not self.leave_out_final:
            yield pb.StreamChatResponse(
                final=pb.Final(
                    finish_reason=pb.FINISH_REASON_LENGTH,
                    usage=pb.Usage(completion_tokens=len(words)),
                )
            )


async def until_reading():
    """A task made just now runs, and then the one in which the client reads."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


class ClientTest(unittest.TestCase):
    def setUp(self):
        self.server = FakeServer()
        self.client = Client(self.server.target)

    def tearDown(self):
        self.server.ended.set()
        self.client.close()
        self.server.stop()

    def test_ask_returns_text_usage_timings_and_logprobs(self):
        answer = self.client.ask(Image(b"jpeg"), "a red circle")
        self.assertEqual(answer.text, "a red circle")
        self.assertEqual(answer.finish_reason, "stop")
        self.assertEqual(answer.usage.image_tokens, 4)
        self.assertEqual(answer.timings.vision_ms, 2.5)
        self.assertEqual(answer.logprobs[0].token, b"\xe7")
        self.assertEqual(answer.logprobs[0].top[0].logprob, -1.5)
        self.assertEqual(self.server.requests[0].messages[0].parts[0].image, b"jpeg")

    def test_options_reach_the_server_and_absent_ones_stay_absent(self):
        self.client.ask(
            None, "?", model="demo", template="vqa", max_tokens=5, stop=["\n"], ignore_eos=True,
            temperature=0.0, top_k=7, seed=2**63, logprobs=0, return_token_ids=True,
            request_id="mine",
        )  # fmt: skip
        sent = self.server.requests[0]
        self.assertEqual(sent.model, "demo")
        self.assertEqual(sent.template, pb.TEMPLATE_VQA)
        self.assertEqual(sent.stopping.max_tokens, 5)
        self.assertEqual(list(sent.stopping.stop), ["\n"])
        self.assertTrue(sent.stopping.ignore_eos)
        self.assertTrue(sent.sampling.HasField("temperature"))
        self.assertFalse(sent.sampling.HasField("top_p"))
        self.assertEqual(sent.sampling.seed, 2**63)
        self.assertTrue(sent.HasField("logprobs"))
        self.assertEqual(sent.request_id, "mine")

    def test_mistakes_in_a_request_never_reach_the_server(self):
        with self.assertRaisesRegex(TypeError, "max_token'"):
            self.client.ask(None, "?", max_token=5)
        with self.assertRaisesRegex(TypeError, r"pass \['END'\]"):
            self.client.ask(None, "?", stop="END")
        with self.assertRaisesRegex(ValueError, "template"):
            self.client.ask(None, "?", template="haiku")
        with self.assertRaisesRegex(ValueError, "role"):
            self.client.chat([Message("owner", "?")])
        self.assertEqual(self.server.requests, [])

    def test_stream_chat_gives_the_pieces_and_then_the_answer(self):
        stream = self.client.stream_chat(
            [Message.user("hello", b"jpeg"), Message.assistant("hi"), Message.user("one two three")]
        )
        self.assertEqual([piece.text for piece in stream], ["one", "two", "three"])
        self.assertEqual(stream.answer.text, "onetwothree")
        self.assertEqual(stream.answer.token_ids, (0, 1, 2))
        self.assertEqual(stream.answer.finish_reason, "length")
        self.assertEqual(stream.answer.request_id, "fake-1")
        roles = [message.role for message in self.server.requests[0].messages]
        self.assertEqual(roles, [pb.ROLE_USER, pb.ROLE_ASSISTANT, pb.ROLE_USER])

    def test_cancel_reaches_the_server(self):
        self.server.hang_after = 1
        with self.client.stream_chat([Message.user("one two")]) as stream:
            self.assertEqual(next(stream).text, "one")
        self.assertTrue(self.server.ended.wait(30))

    def test_errors_carry_reason_field_delay_and_metadata(self):
        self.server.refusals = [
            Refusal(grpc.StatusCode.INVALID_ARGUMENT, "PARAM_RANGE", "sampling.top_p", 1.5)
        ]
        with self.assertRaises(CogserveError) as caught:
            self.client.ask(None, "?")
        error = caught.exception
        self.assertEqual(error.code, grpc.StatusCode.INVALID_ARGUMENT)
        self.assertEqual(error.reason, "PARAM_RANGE")
        self.assertEqual(error.field, "sampling.top_p")
        self.assertEqual(error.retry_after, 1.5)
        self.assertEqual(error.metadata, {"got": "3"})
        self.assertEqual(str(error), "PARAM_RANGE sampling.top_p: refused")

    def test_errors_can_be_pickled(self):
        error = CogserveError(
            grpc.StatusCode.RESOURCE_EXHAUSTED, "full", "QUEUE_FULL", "messages", 1.5,
            {"limit": "8"}, "mine",
        )  # fmt: skip
        copied = pickle.loads(pickle.dumps(error))
        self.assertEqual(str(copied), str(error))
        self.assertEqual(vars(copied), vars(error))

    def test_refusals_that_may_pass_are_tried_again(self):
        self.server.refusals = [
            Refusal(grpc.StatusCode.UNAVAILABLE, "DRAINING", retry_after=0.001),
            Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", retry_after=0.001),
        ]
        self.assertEqual(self.client.stream_chat([Message.user("at last")]).answer.text, "atlast")
        self.assertEqual(len(self.server.requests), 3)

    def test_what_cannot_pass_is_not_tried_again(self):
        for code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED):
            self.server.requests.clear()
            self.server.refusals = [Refusal(code)]
            with self.assertRaises(CogserveError):
                self.client.ask(None, "?")
            self.assertEqual(len(self.server.requests), 1)

    def test_an_answer_that_has_begun_is_not_asked_again(self):
        self.server.broken_after = 1
        stream = self.client.stream_chat([Message.user("one two")])
        self.assertEqual(next(stream).text, "one")
        with self.assertRaisesRegex(CogserveError, "ENGINE_RESTARTING"):
            next(stream)
        self.assertEqual(len(self.server.requests), 1)

    def test_a_stream_without_its_final_message_is_an_error(self):
        self.server.leave_out_final = True
        with self.assertRaisesRegex(CogserveError, "STREAM_INCOMPLETE"):
            self.client.stream_chat([Message.user("one")]).answer

    def test_a_deadline_ends_a_hanging_server(self):
        self.server.hang_after = 0
        with Client(self.server.target, deadline=0.1) as client:
            with self.assertRaises(CogserveError) as caught:
                client.stream_chat([Message.user("one")])
        self.assertEqual(caught.exception.code, grpc.StatusCode.DEADLINE_EXCEEDED)

    def test_a_server_that_is_gone_is_unavailable(self):
        self.server.stop()
        with Client(self.server.target, retries=0) as client:
            with self.assertRaises(CogserveError) as caught:
                client.ask(None, "?")
        self.assertEqual(caught.exception.code, grpc.StatusCode.UNAVAILABLE)

    def test_credentials_that_make_no_sense_are_refused(self):
        pem = b"-----BEGIN CERTIFICATE-----"
        for client in (Client, AsyncClient):
            with self.assertRaisesRegex(ValueError, "tls=True"):
                client(self.server.target, ca_certificates=pem)
            with self.assertRaisesRegex(ValueError, "tls=True"):
                client(self.server.target, certificate=pem, private_key=pem)
            with self.assertRaisesRegex(ValueError, "come together"):
                client(self.server.target, tls=True, certificate=pem)
            for key in ("", "two words", "kl\u00e9", "line\n"):
                with self.assertRaisesRegex(ValueError, "api_key"):
                    client(self.server.target, api_key=key)

    def test_every_call_brings_the_key(self):
        with Client(self.server.target, api_key="the-key") as client:
            client.ask(None, "?")
            list(client.stream_chat([Message.user("one two")]))
            client.get_model()
            client.health()

        async def ask():
            async with AsyncClient(self.server.target, api_key="the-key") as client:
                await client.ask(None, "?")
                async for _ in await client.stream_chat([Message.user("one two")]):
                    pass
                await client.get_model()
                await client.health()

        asyncio.run(ask())
        self.assertEqual(self.server.authorizations.seen, 8 * ["Bearer the-key"])
        self.client.ask(None, "?")
        self.assertIsNone(self.server.authorizations.seen[-1])

    def test_the_environments_http_proxy_is_not_asked(self):
        nobody = {"grpc_proxy": "http://127.0.0.1:1", "no_grpc_proxy": "", "no_proxy": ""}
        with unittest.mock.patch.dict(os.environ, nobody):
            with Client(self.server.target, retries=0) as client:
                self.assertEqual(client.ask(None, "straight").text, "straight")

    def test_all_servers_behind_a_name_are_asked_in_turn(self):
        other = FakeServer()
        with Client(f"ipv4:{self.server.target},{other.target}") as client:
            for _ in range(1000):  # until both connections are there
                client.ask(None, "?")
                if self.server.requests and other.requests:
                    break
        other.stop()
        self.assertTrue(self.server.requests)
        self.assertTrue(other.requests)

    def test_get_model_and_health(self):
        model = self.client.get_model()
        self.assertEqual((model.name, model.default_template), ("demo", "vqa"))
        self.assertEqual(model.limits.max_model_len, 512)
        self.assertEqual(self.client.health(), "SERVING")
        self.server.serving = 2
        self.assertEqual(self.client.health(), "NOT_SERVING")
        with self.assertRaises(CogserveError) as caught:
            self.client.health("no.such.Service")
        self.assertEqual(caught.exception.code, grpc.StatusCode.NOT_FOUND)

    def test_asyncio_answers_streams_retries_and_fails_alike(self):
        async def talk():
            async with AsyncClient(self.server.target) as client:
                self.assertEqual((await client.ask(b"jpeg", "a b")).text, "a b")
                stream = await client.stream_chat([Message.user("one two")])
                self.assertEqual([piece.text async for piece in stream], ["one", "two"])
                self.assertEqual((await stream.answer()).finish_reason, "length")
                self.assertEqual(await client.health(), "SERVING")
                self.assertEqual((await client.get_model()).name, "demo")
                self.server.refusals = [
                    Refusal(grpc.StatusCode.UNAVAILABLE, "LOADING", retry_after=0.001)
                ]
                self.assertEqual((await client.ask(None, "again")).text, "again")
                self.server.refusals = [Refusal(grpc.StatusCode.INVALID_ARGUMENT, "SYSTEM_ROLE")]
                with self.assertRaisesRegex(CogserveError, "SYSTEM_ROLE"):
                    await client.ask(None, "?")

        asyncio.run(talk())

    def test_asyncio_cancel_ends_the_answer_and_not_the_task(self):
        async def talk():
            async with AsyncClient(self.server.target) as client:
                stream = await client.stream_chat([Message.user("one two")])
                self.assertEqual((await stream.__anext__()).text, "one")
                stream.cancel()
                for _ in range(2):
                    with self.assertRaises(CogserveError) as caught:
                        await stream.__anext__()
                    self.assertEqual(caught.exception.code, grpc.StatusCode.CANCELLED)
                return "went on"

        self.server.hang_after = 1
        self.assertEqual(asyncio.run(talk()), "went on")

    def test_asyncio_cancel_reaches_a_read_under_way_and_the_server(self):
        async def talk():
            async with AsyncClient(self.server.target) as client:
                stream = await client.stream_chat([Message.user("one two")])
                reading = asyncio.create_task(stream.answer())
                await until_reading()
                stream.cancel()
                with self.assertRaises(CogserveError) as caught:
                    await reading
                self.assertEqual(caught.exception.code, grpc.StatusCode.CANCELLED)

        self.server.hang_after = 1
        asyncio.run(talk())
        self.assertTrue(self.server.ended.wait(30))

    def test_asyncio_a_cancelled_task_ends_as_one_even_after_cancel(self):
        async def talk(cancel_stream):
            async with AsyncClient(self.server.target) as client:
                stream = await client.stream_chat([Message.user("one two")])
                reading = asyncio.create_task(stream.answer())
                await until_reading()
                if cancel_stream:
                    stream.cancel()
                reading.cancel()
                with self.assertRaises(asyncio.CancelledError):
                    await reading

        self.server.hang_after = 1
        for cancel_stream in (False, True):
            self.server.ended.clear()
            asyncio.run(talk(cancel_stream))
            self.assertTrue(self.server.ended.wait(30))


@unittest.skipUnless(
    os.environ.get("COGSERVE_SERVER") and os.environ.get("COGSERVE_TEST_IMAGE"),
    "COGSERVE_SERVER and COGSERVE_TEST_IMAGE name no server and picture",
)
class LiveServerTest(unittest.TestCase):
    def setUp(self):
        self.client = Client(os.environ["COGSERVE_SERVER"], deadline=300)
        self.image = os.environ["COGSERVE_TEST_IMAGE"]

    def tearDown(self):
        self.client.close()

    def test_streamed_and_whole_answers_are_the_same(self):
        self.assertEqual(self.client.health(), "SERVING")
        messages = [Message.user("What is in the picture?", self.image)]
        options = {"temperature": 0.0, "max_tokens": 16, "return_token_ids": True}
        whole = self.client.chat(messages, **options)
        streamed = self.client.stream_chat(messages, **options).answer
        self.assertEqual(whole.text, streamed.text)
        self.assertEqual(whole.token_ids, streamed.token_ids)
        self.assertEqual(whole.usage, streamed.usage)
        self.assertEqual(whole.usage.image_tokens, self.client.get_model().image_tokens)

    def test_refusals_carry_the_servers_reason(self):
        with self.assertRaises(CogserveError) as caught:
            self.client.chat([Message("system", "be brief"), Message.user("?")])
        self.assertEqual(caught.exception.code, grpc.StatusCode.INVALID_ARGUMENT)
        self.assertEqual(caught.exception.reason, "SYSTEM_ROLE")


if __name__ == "__main__":
    unittest.main()
