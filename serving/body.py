"""The body of a request, bounded while it arrives."""

import asyncio
from collections.abc import Collection

from starlette.requests import ClientDisconnect, Request

from serving.headers import JSON
from serving.wire import PATIENCE, RequestError

MAX_BODY = 1_000_000


def media_type(request: Request, kinds: Collection[str] = (JSON,)) -> str:
    """What the body is, by its header, the first of `kinds` where there is none. Raises RequestError for others."""
    first, *_ = kinds
    kind = request.headers.get("content-type", first).split(";")[0].strip().lower()
    if kind not in kinds:
        raise RequestError("content-type", f"{kind} is not understood: send {' or '.join(kinds)}", 415)
    return kind


async def read_body(request: Request, kinds: Collection[str] = (JSON,)) -> tuple[bytes, str]:
    """The body and its media type, the first of `kinds` where it names none.

    Refuses what is of no such kind and what is too large.
    """
    body = await read_all(request)
    first, *_ = kinds
    return body, media_type(request, kinds) if body else first


async def read_timely(request: Request) -> bytes:
    """The body, of JSON. Raises RequestError, 408, for one that is too long on its way."""
    if has_come(request):  # most have: nothing is waited for, and to bound a wait takes longer than to read
        return (await read_body(request))[0]
    try:
        async with asyncio.timeout(PATIENCE):
            body, _ = await read_body(request)
    except TimeoutError as error:
        raise RequestError(
            "body", f"it did not come within {PATIENCE} seconds: send it again", 408
        ) from error
    return body


def has_come(request: Request) -> bool:
    """Whether all of the body is here, as uvicorn tells; another server tells nothing."""
    return getattr(getattr(request.receive, "__self__", None), "more_body", True) is False


async def read_all(request: Request) -> bytes:
    """The body, whatever it is. Refuses what is too large."""
    body, more = bytearray(), True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MAX_BODY:
            raise RequestError("body", f"larger than {MAX_BODY:,} bytes: ask in parts", 413)
    return bytes(body)
