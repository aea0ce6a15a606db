"""The blocking client."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Callable, Iterable, Iterator, Optional, TypeVar

import grpc
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from cogserve import _wire
from cogserve._wire import pb
from cogserve.errors import retry_delay, to_error
from cogserve.types import Answer, Delta, ImageLike, Message, ModelInfo, Options

if TYPE_CHECKING:
    from typing_extensions import Unpack

T = TypeVar("T")


class AnswerStream(Iterator[Delta]):
    """Deltas as they come. After the last one, `answer` is the whole answer."""

    def __init__(self, call: Any, first: Any) -> None:
        self._call = call
        self._first = first
        self._builder = _wire.AnswerBuilder()
        self._answer: Optional[Answer] = None

    def __next__(self) -> Delta:
        while self._answer is None:
            response = self._receive()
            if response is None:
                self._answer = self._builder.take()
                break
            delta = self._builder.add(response)
            if delta is not None:
                return delta
        raise StopIteration

    @property
    def answer(self) -> Answer:
        """The whole answer; reads what is still to come."""
        for _ in self:
            pass
        assert self._answer is not None
        return self._answer

    def cancel(self) -> None:
        """Stops the answer; the server frees its place. Reading on raises CogserveError."""
        self._call.cancel()

    def __enter__(self) -> AnswerStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    def _receive(self) -> Any:
        if self._first is not None:
            response, self._first = self._first, None
            return response
        try:
            return next(self._call, None)
        except grpc.RpcError as failure:
            raise to_error(failure) from None


class Client:
    """A connection to a cogserve server, or to all behind one name; usable from any thread.

    target: host:port, dns:///name:port or unix:/path.
    tls: encrypt. For it alone, as PEM bytes: `ca_certificates`, whom to trust, the system's where
        None; `certificate` and `private_key`, what to show a server that asks.
    api_key: sent with every call; without tls everyone on the way can read it.
    deadline: seconds for one call with all its tries; None: no limit.
    retries: further tries after a refusal that may pass, never once an answer has begun.

    Calls raise CogserveError.
    """

    def __init__(
        self,
        target: str = "127.0.0.1:8001",
        *,
        tls: bool = False,
        ca_certificates: Optional[bytes] = None,
        certificate: Optional[bytes] = None,
        private_key: Optional[bytes] = None,
        api_key: Optional[str] = None,
        deadline: Optional[float] = None,
        retries: int = 3,
    ) -> None:
        credentials = _wire.channel_credentials(tls, ca_certificates, certificate, private_key)
        self._metadata = _wire.call_metadata(api_key)
        if credentials is None:
            self._channel = grpc.insecure_channel(target, _wire.CHANNEL_OPTIONS)
        else:
            self._channel = grpc.secure_channel(target, credentials, _wire.CHANNEL_OPTIONS)
        self._deadline = deadline
        self._retries = retries
        self._chat = self._channel.unary_unary(
            _wire.CHAT, pb.ChatRequest.SerializeToString, pb.ChatResponse.FromString
        )
        self._stream_chat = self._channel.unary_stream(
            _wire.STREAM_CHAT, pb.ChatRequest.SerializeToString, pb.StreamChatResponse.FromString
        )
        self._get_model = self._channel.unary_unary(
            _wire.GET_MODEL, pb.GetModelRequest.SerializeToString, pb.Model.FromString
        )
        # On the wire the health protocol's messages are these two well-known types.
        self._health = self._channel.unary_unary(
            _wire.HEALTH, StringValue.SerializeToString, Int32Value.FromString
        )

    def ask(
        self, image: Optional[ImageLike], question: str, **options: Unpack[Options]
    ) -> Answer:
        """One question about one picture (a path, bytes or Image; None: no picture)."""
        return self.chat([Message.user(question, image)], **options)

    def chat(self, messages: Iterable[Message], **options: Unpack[Options]) -> Answer:
        """The answer to a conversation, sent whole."""
        request = _wire.make_request(messages, options)
        return self._call(lambda timeout: _wire.read_answer(self._chat(request, **self._brings(timeout))))

    def stream_chat(self, messages: Iterable[Message], **options: Unpack[Options]) -> AnswerStream:
        """Like chat, piece by piece; returns when the first piece is there."""
        request = _wire.make_request(messages, options)

        def attempt(timeout: Optional[float]) -> AnswerStream:
            call = self._stream_chat(request, **self._brings(timeout))
            return AnswerStream(call, next(call, None))

        return self._call(attempt)

    def get_model(self) -> ModelInfo:
        """What is served, and the limits of requests."""
        return self._call(
            lambda timeout: _wire.read_model(
                self._get_model(pb.GetModelRequest(), **self._brings(timeout))
            )
        )

    def health(self, service: str = "") -> str:
        """ "SERVING" or "NOT_SERVING"; "" is the whole server."""
        request = StringValue(value=service)
        return self._call(
            lambda timeout: _wire.HEALTH_NAMES.get(
                self._health(request, **self._brings(timeout)).value, "UNKNOWN"
            )
        )

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _brings(self, timeout: Optional[float]) -> dict[str, Any]:
        return {"timeout": timeout, "metadata": self._metadata}

    def _call(self, attempt: Callable[[Optional[float]], T]) -> T:
        end = None if self._deadline is None else time.monotonic() + self._deadline
        tries = 0
        while True:
            timeout = None if end is None else max(0.0, end - time.monotonic())
            try:
                return attempt(timeout)
            except grpc.RpcError as failure:
                error = to_error(failure)
            delay = retry_delay(error, tries, self._retries)
            if delay is None or (end is not None and time.monotonic() + delay >= end):
                raise error
            time.sleep(delay)
            tries += 1
