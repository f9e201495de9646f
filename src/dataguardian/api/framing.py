"""Requests of which two readers may see different ends: what one takes for a body, another takes for the next request.

The HTTP parser refuses most of them. What it lets pass, because RFC 9112 leaves it open, is refused here, and the
connection ends with the answer (RFC 9112, 6.1 and 6.3): a proxy in front may have read it in another way.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Scope

from dataguardian.api.errors import error_answer

_VERSIONS = {"1.0", "1.1"}


def framing_refusal(scope: Scope, headers: Headers) -> Response | None:
    """Returns why nobody can be sure where a request ends; None when all agree."""
    if scope.get("http_version") not in _VERSIONS:
        return _last(error_answer(505, "http_version", "this version of HTTP is not spoken here"))
    if "transfer-encoding" not in headers:
        return None
    if "content-length" in headers or scope["http_version"] == "1.0":
        text = "Transfer-Encoding stands beside Content-Length, or in HTTP/1.0: the end of the request is not clear"
        return _last(error_answer(400, "ambiguous_request", text))
    return None


def _last(answer: Response) -> Response:
    answer.headers["Connection"] = "close"
    return answer
