"""Client of cogserve: questions about a picture, answered by CogVLM2, over gRPC.

    from cogserve import Client

    with Client("127.0.0.1:8001") as client:
        print(client.ask("photo.jpg", "What is in the picture?").text)
"""

from cogserve.aio import AsyncAnswerStream, AsyncClient
from cogserve.client import AnswerStream, Client
from cogserve.errors import CogserveError
from cogserve.types import (
    Answer,
    Delta,
    Image,
    Limits,
    Message,
    ModelInfo,
    Options,
    Timings,
    TokenLogprob,
    TopLogprob,
    Usage,
)

__all__ = [
    "Answer",
    "AnswerStream",
    "AsyncAnswerStream",
    "AsyncClient",
    "Client",
    "CogserveError",
    "Delta",
    "Image",
    "Limits",
    "Message",
    "ModelInfo",
    "Options",
    "Timings",
    "TokenLogprob",
    "TopLogprob",
    "Usage",
]
