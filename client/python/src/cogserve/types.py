"""Requests and answers as plain values.

They mirror cogserve/v1/cogserve.proto, where every field's range is documented.
"""

from __future__ import annotations

import os
import pathlib
from dataclasses import dataclass, field
from typing import Optional, Sequence, TypedDict, Union


@dataclass(frozen=True)
class Image:
    """An encoded JPEG, PNG or WebP picture."""

    data: bytes

    @staticmethod
    def open(path: Union[str, os.PathLike]) -> Image:
        return Image(pathlib.Path(path).read_bytes())


# A path, or the encoded bytes.
ImageLike = Union[Image, bytes, str, os.PathLike]


def to_image(image: ImageLike) -> Image:
    if isinstance(image, Image):
        return image
    if isinstance(image, (bytes, bytearray, memoryview)):
        return Image(bytes(image))
    return Image.open(image)


@dataclass(frozen=True)
class Message:
    """One turn; `role` is "user" or "assistant". A picture stands before the text."""

    role: str
    text: str
    image: Optional[ImageLike] = None

    @staticmethod
    def user(text: str, image: Optional[ImageLike] = None) -> Message:
        return Message("user", text, image)

    @staticmethod
    def assistant(text: str) -> Message:
        return Message("assistant", text)


class Options(TypedDict, total=False):
    """Keyword arguments of every question; what is absent takes the server's default."""

    model: str
    template: str  # "chat", "vqa" or "base"
    max_tokens: int
    min_tokens: int
    stop: Sequence[str]
    stop_token_ids: Sequence[int]
    ignore_eos: bool
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    seed: int
    logprobs: int
    return_token_ids: bool
    request_id: str


@dataclass(frozen=True)
class Usage:
    prompt_tokens: int = 0
    image_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True)
class Timings:
    """Milliseconds, measured by the server."""

    queue_ms: float = 0.0
    image_decode_ms: float = 0.0
    vision_ms: float = 0.0
    prefill_ms: float = 0.0
    decode_ms: float = 0.0
    total_ms: float = 0.0


@dataclass(frozen=True)
class TopLogprob:
    token_id: int
    token: bytes
    logprob: float


@dataclass(frozen=True)
class TokenLogprob:
    token_id: int
    token: bytes
    logprob: float
    top: tuple[TopLogprob, ...] = ()


@dataclass(frozen=True)
class Delta:
    """A piece of a streamed answer."""

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class Answer:
    text: str
    finish_reason: str  # "stop" or "length"
    usage: Usage = field(default_factory=Usage)
    timings: Timings = field(default_factory=Timings)
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    matched_stop: str = ""
    request_id: str = ""
    model: str = ""


@dataclass(frozen=True)
class Limits:
    max_model_len: int
    max_tokens: int
    max_messages: int
    max_prompt_bytes: int
    max_image_bytes: int
    max_image_pixels: int
    max_logprobs: int
    max_num_seqs: int
    max_queue_size: int
    max_message_bytes: int


@dataclass(frozen=True)
class ModelInfo:
    name: str
    device: str
    dtype: str
    rope_dtype: str
    default_template: str
    image_tokens: int
    image_size: int
    kv_cache_tokens: int
    kv_block_size: int
    vocab_size: int
    limits: Limits
    server_version: str
