"""The client for asyncio."""

from __future__ import annotations

import asyncio
import time
from typing import (
    TYPE_CHECKING,
    Any,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Optional,
    TypeVar,
)

import grpc
import grpc.aio
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from cogserve import _wire
from cogserve._wire import pb
from cogserve.errors import CogserveError, retry_delay, to_error
from cogserve.types import Answer, Delta, ImageLike, Message, ModelInfo, Options

if TYPE_CHECKING:
    from typing_extensions import Unpack

T = TypeVar("T")


class AsyncAnswerStream(AsyncIterator[Delta]):
    """Deltas as they come. After the last one, `answer` is the whole answer."""

    def __init__(self, call: Any, first: Any) -> None:
        self._call = call
        self._first = first
        self._builder = _wire.AnswerBuilder()
        self._answer: Optional[Answer] = None

    async def __anext__(self) -> Delta:
        while self._answer is None:
            response = await self._receive()
            if response is grpc.aio.EOF:
                self._answer = self._builder.take()
                break
            delta = self._builder.add(response)
            if delta is not None:
                return delta
        raise StopAsyncIteration

    async def answer(self) -> Answer:
        """The whole answer; reads what is still to come."""
        async for _ in self:
            pass
        assert self._answer is not None
        return self._answer

    def cancel(self) -> None:
        """Stops the answer; the server frees its place. Reading on raises CogserveError."""
        self._call.cancel()

    async def _receive(self) -> Any:
        if self._first is not None:
            response, self._first = self._first, None
            return response
        # After cancel() grpc.aio ends the read with CancelledError, as if the caller's own task were
        # to end. In a task of its own the two can be told apart.
        reading = asyncio.ensure_future(self._call.read())
        try:
            await asyncio.wait({reading})
        except asyncio.CancelledError:
            reading.cancel()
            raise
        if reading.cancelled():
            raise CogserveError(grpc.StatusCode.CANCELLED, "the answer was stopped")
        try:
            return reading.result()
        except grpc.RpcError as failure:
            raise to_error(failure) from None


class AsyncClient:
    """Client with the same arguments and methods as cogserve.Client, each of them awaited."""

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
            self._channel = grpc.aio.insecure_channel(target, _wire.CHANNEL_OPTIONS)
        else:
            self._channel = grpc.aio.secure_channel(target, credentials, _wire.CHANNEL_OPTIONS)
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
        self._health = self._channel.unary_unary(
            _wire.HEALTH, StringValue.SerializeToString, Int32Value.FromString
        )

    async def ask(
        self, image: Optional[ImageLike], question: str, **options: Unpack[Options]
    ) -> Answer:
        return await self.chat([Message.user(question, image)], **options)

    async def chat(self, messages: Iterable[Message], **options: Unpack[Options]) -> Answer:
        request = _wire.make_request(messages, options)

        async def attempt(timeout: Optional[float]) -> Answer:
            return _wire.read_answer(await self._chat(request, **self._brings(timeout)))

        return await self._call(attempt)

    async def stream_chat(
        self, messages: Iterable[Message], **options: Unpack[Options]
    ) -> AsyncAnswerStream:
        request = _wire.make_request(messages, options)

        async def attempt(timeout: Optional[float]) -> AsyncAnswerStream:
            call = self._stream_chat(request, **self._brings(timeout))
            return AsyncAnswerStream(call, await call.read())

        return await self._call(attempt)

    async def get_model(self) -> ModelInfo:
        async def attempt(timeout: Optional[float]) -> ModelInfo:
            return _wire.read_model(await self._get_model(pb.GetModelRequest(), **self._brings(timeout)))

        return await self._call(attempt)

    async def health(self, service: str = "") -> str:
        async def attempt(timeout: Optional[float]) -> str:
            response = await self._health(StringValue(value=service), **self._brings(timeout))
            return _wire.HEALTH_NAMES.get(response.value, "UNKNOWN")

        return await self._call(attempt)

    async def close(self) -> None:
        await self._channel.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _brings(self, timeout: Optional[float]) -> dict[str, Any]:
        return {"timeout": timeout, "metadata": self._metadata}

    async def _call(self, attempt: Callable[[Optional[float]], Awaitable[T]]) -> T:
        end = None if self._deadline is None else time.monotonic() + self._deadline
        tries = 0
        while True:
            timeout = None if end is None else max(0.0, end - time.monotonic())
            try:
                return await attempt(timeout)
            except grpc.RpcError as failure:
                error = to_error(failure)
            delay = retry_delay(error, tries, self._retries)
            if delay is None or (end is not None and time.monotonic() + delay >= end):
                raise error
            await asyncio.sleep(delay)
            tries += 1
