"""The one shape in which the endpoint says that a request failed: OpenAI's, in one line."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import JSONResponse


def error_response(
    message: str,
    kind: str,
    param: str | None,
    status: int,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """Return `message` as OpenAI's error of type `kind` about the key `param`."""
    line = " ".join(message.partition("For further information")[0].split())  # pydantic's address
    error = {"message": line, "type": kind, "param": param, "code": status}
    return JSONResponse({"error": error}, status, headers)
