"""What a failed call raises."""

from __future__ import annotations

from typing import Any, Optional

import grpc
from google.rpc import error_details_pb2, status_pb2

_DETAILS_KEY = "grpc-status-details-bin"


class CogserveError(Exception):
    """A call that the server refused or that never reached it.

    code: the gRPC status, for example grpc.StatusCode.INVALID_ARGUMENT.
    reason: the server's stable UPPER_SNAKE reason; "" where the failure did not come from it.
    field: the request's field at fault; "" where none is.
    retry_after: seconds after which another try may succeed, or None.
    metadata: the limit and the value compared with it, as the server names them.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        reason: str = "",
        field: str = "",
        retry_after: Optional[float] = None,
        metadata: Optional[dict[str, str]] = None,
        request_id: str = "",
    ) -> None:
        where = f" {field}" if field else ""
        super().__init__(f"{reason or code.name}{where}: {message}")
        self.code = code
        self.message = message
        self.reason = reason
        self.field = field
        self.retry_after = retry_after
        self.metadata = metadata or {}
        self.request_id = request_id

    def __reduce__(self) -> tuple[Any, ...]:
        # For pickle and copy: Exception's own would give __init__ the printed line alone.
        return type(self), (
            self.code,
            self.message,
            self.reason,
            self.field,
            self.retry_after,
            self.metadata,
            self.request_id,
        )


def to_error(failure: grpc.RpcError) -> CogserveError:
    """From what grpcio raises, with the google.rpc details read."""
    details: dict[str, Any] = {}
    for key, value in failure.trailing_metadata() or ():
        if key == _DETAILS_KEY:
            details = _read_details(value)
    return CogserveError(failure.code(), failure.details() or "", **details)


def _read_details(value: bytes) -> dict[str, Any]:
    """CogserveError's arguments, out of a serialized google.rpc.Status."""
    found: dict[str, Any] = {}
    for detail in status_pb2.Status.FromString(value).details:
        info = error_details_pb2.ErrorInfo()
        bad_request = error_details_pb2.BadRequest()
        retry = error_details_pb2.RetryInfo()
        resource = error_details_pb2.ResourceInfo()
        request = error_details_pb2.RequestInfo()
        if detail.Unpack(info):
            found["reason"] = info.reason
            found["metadata"] = dict(info.metadata)
        elif detail.Unpack(bad_request) and bad_request.field_violations:
            found["field"] = bad_request.field_violations[0].field
        elif detail.Unpack(resource):  # NOT_FOUND: the field that names the thing
            found["field"] = resource.resource_type
        elif detail.Unpack(retry):
            found["retry_after"] = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
        elif detail.Unpack(request):
            found["request_id"] = request.request_id
    return found


def retry_delay(error: CogserveError, attempt: int, retries: int) -> Optional[float]:
    """Seconds to wait before the next try (attempts count from 0), or None where it cannot help.

    RESOURCE_EXHAUSTED is tried again only where the server names a delay: gRPC ends oversized
    messages with it too, and those would fail again.
    """
    if attempt >= retries:
        return None
    if error.code == grpc.StatusCode.UNAVAILABLE or (
        error.code == grpc.StatusCode.RESOURCE_EXHAUSTED and error.retry_after is not None
    ):
        backoff = min(0.1 * 2**attempt, 5.0)
        return backoff if error.retry_after is None else max(0.0, error.retry_after)
    return None
