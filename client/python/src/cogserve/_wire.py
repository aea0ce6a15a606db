"""Between the package's values and cogserve.v1 messages."""

from __future__ import annotations

from typing import Any, Iterable, Optional

import grpc

from cogserve.errors import CogserveError
from cogserve.types import (
    Answer,
    Delta,
    Limits,
    Message,
    ModelInfo,
    Options,
    Timings,
    TokenLogprob,
    TopLogprob,
    Usage,
    to_image,
)
from cogserve.v1 import cogserve_pb2 as pb

CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    # Each client has its own connection, and looks again soon for a server that restarts: retries
    # are worth nothing while gRPC's own first pause of a second lasts.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # Where a name stands for several servers, calls go to all of them in turn.
    ("grpc.lb_policy_name", "round_robin"),
)
CHAT = "/cogserve.v1.CogServe/Chat"
STREAM_CHAT = "/cogserve.v1.CogServe/StreamChat"
GET_MODEL = "/cogserve.v1.CogServe/GetModel"
HEALTH = "/grpc.health.v1.Health/Check"
HEALTH_NAMES = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}

_ROLES = {"user": pb.ROLE_USER, "assistant": pb.ROLE_ASSISTANT, "system": pb.ROLE_SYSTEM}
_TEMPLATES = {"chat": pb.TEMPLATE_CHAT, "vqa": pb.TEMPLATE_VQA, "base": pb.TEMPLATE_BASE}
_TEMPLATE_NAMES = {number: name for name, number in _TEMPLATES.items()}
_FINISH_REASONS = {pb.FINISH_REASON_STOP: "stop", pb.FINISH_REASON_LENGTH: "length"}
_SAMPLING = {field.name for field in pb.Sampling.DESCRIPTOR.fields}
_STOPPING = {field.name for field in pb.Stopping.DESCRIPTOR.fields}


def channel_credentials(
    tls: bool,
    ca_certificates: Optional[bytes],
    certificate: Optional[bytes],
    private_key: Optional[bytes],
) -> Optional[grpc.ChannelCredentials]:
    """None for a connection that is not encrypted."""
    if (certificate is None) != (private_key is None):
        raise ValueError("certificate and private_key come together")
    if tls:
        return grpc.ssl_channel_credentials(ca_certificates, private_key, certificate)
    if ca_certificates is not None or certificate is not None:
        raise ValueError("certificates are for tls=True; without it nothing is encrypted")
    return None


def call_metadata(api_key: Optional[str]) -> Optional[tuple[tuple[str, str], ...]]:
    """What every call brings along."""
    if api_key is None:
        return None
    if not api_key or not all("!" <= c <= "~" for c in api_key):
        raise ValueError("api_key is of printable ASCII, without spaces")
    return (("authorization", f"Bearer {api_key}"),)


def make_request(messages: Iterable[Message], options: Options) -> pb.ChatRequest:
    known = Options.__annotations__
    values: dict[str, Any] = dict(options)
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise TypeError(f"unknown option {unknown[0]!r}; known: {', '.join(known)}")
    template = values.pop("template", None)
    if template is not None and template not in _TEMPLATES:
        raise ValueError(f"template must be one of {', '.join(_TEMPLATES)}, got {template!r}")
    stop = values.get("stop")
    if isinstance(stop, (str, bytes)):  # a sequence too, of its characters
        raise TypeError(f"stop is a list of texts: pass [{stop!r}], not {stop!r}")
    sampling = {name: values.pop(name) for name in list(values) if name in _SAMPLING}
    stopping = {name: values.pop(name) for name in list(values) if name in _STOPPING}
    return pb.ChatRequest(
        messages=[_make_message(message) for message in messages],
        template=_TEMPLATES.get(template, pb.TEMPLATE_UNSPECIFIED),
        sampling=pb.Sampling(**sampling),
        stopping=pb.Stopping(**stopping),
        **values,
    )


def _make_message(message: Message) -> pb.Message:
    if message.role not in _ROLES:
        raise ValueError(f"role must be one of {', '.join(_ROLES)}, got {message.role!r}")
    parts = []
    if message.image is not None:
        parts.append(pb.Part(image=to_image(message.image).data))
    parts.append(pb.Part(text=message.text))
    return pb.Message(role=_ROLES[message.role], parts=parts)


def _usage(usage: pb.Usage) -> Usage:
    return Usage(usage.prompt_tokens, usage.image_tokens, usage.completion_tokens)


def _timings(timings: pb.Timings) -> Timings:
    return Timings(
        timings.queue_ms,
        timings.image_decode_ms,
        timings.vision_ms,
        timings.prefill_ms,
        timings.decode_ms,
        timings.total_ms,
    )


def _logprobs(logprobs: Iterable[pb.TokenLogprob]) -> tuple[TokenLogprob, ...]:
    return tuple(
        TokenLogprob(
            token.token_id,
            token.token,
            token.logprob,
            tuple(TopLogprob(top.token_id, top.token, top.logprob) for top in token.top),
        )
        for token in logprobs
    )


def read_answer(response: pb.ChatResponse) -> Answer:
    return Answer(
        text=response.text,
        finish_reason=_FINISH_REASONS.get(response.finish_reason, "unspecified"),
        usage=_usage(response.usage),
        timings=_timings(response.timings),
        token_ids=tuple(response.token_ids),
        logprobs=_logprobs(response.logprobs),
        matched_stop=response.matched_stop,
        request_id=response.request_id,
        model=response.model,
    )


def read_model(model: pb.Model) -> ModelInfo:
    limits = {field.name: getattr(model.limits, field.name) for field in pb.Limits.DESCRIPTOR.fields}
    return ModelInfo(
        name=model.name,
        device=model.device,
        dtype=model.dtype,
        rope_dtype=model.rope_dtype,
        default_template=_TEMPLATE_NAMES.get(model.default_template, ""),
        image_tokens=model.image_tokens,
        image_size=model.image_size,
        kv_cache_tokens=model.kv_cache_tokens,
        kv_block_size=model.kv_block_size,
        vocab_size=model.vocab_size,
        limits=Limits(**limits),
        server_version=model.server_version,
    )


class AnswerBuilder:
    """Puts a streamed answer together, message by message."""

    def __init__(self) -> None:
        self._deltas: list[Delta] = []
        self._final: Optional[pb.Final] = None
        self._request_id = ""
        self._model = ""

    def add(self, response: pb.StreamChatResponse) -> Optional[Delta]:
        """The delta in `response`, or None where it is the final message."""
        self._request_id = response.request_id or self._request_id
        self._model = response.model or self._model
        if response.HasField("final"):
            self._final = response.final
            return None
        delta = Delta(
            response.delta.text,
            tuple(response.delta.token_ids),
            _logprobs(response.delta.logprobs),
        )
        self._deltas.append(delta)
        return delta

    def take(self) -> Answer:
        if self._final is None:
            raise CogserveError(
                grpc.StatusCode.INTERNAL,
                "the stream ended without its final message",
                reason="STREAM_INCOMPLETE",
            )
        return Answer(
            text="".join(delta.text for delta in self._deltas),
            finish_reason=_FINISH_REASONS.get(self._final.finish_reason, "unspecified"),
            usage=_usage(self._final.usage),
            timings=_timings(self._final.timings),
            token_ids=tuple(token for delta in self._deltas for token in delta.token_ids),
            logprobs=tuple(token for delta in self._deltas for token in delta.logprobs),
            matched_stop=self._final.matched_stop,
            request_id=self._request_id,
            model=self._model,
        )
