"""The short way of a request: from uvicorn's hands to `Edge`, past the layers that BentoML and Starlette put between.

They cost more than a list does. Starting, ending, readiness and all that is not asked for in the moment stay BentoML's.
"""

import asyncio
import logging
from array import array
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from fcntl import ioctl
from termios import TIOCOUTQ
from typing import Any

from _bentoml_sdk import Service
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.wire import SHORT

TAKING = 60  # seconds in which who reads an answer takes some of it
log = logging.getLogger("osclms.direct")


class Front:
    """An ASGI app: `edge` for what goes the short way, BentoML's own app for the rest.

    On the short way, where no layer bounds it, who takes nothing of an answer for `patience` seconds is hung up on.
    """

    def __init__(self, bento: ASGIApp, edge: ASGIApp, patience: float = TAKING) -> None:
        self.bento, self.edge, self.patience = bento, edge, patience

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not goes_short(scope["path"]):
            await self.bento(scope, receive, send)
            return

        async def sent(message: Message) -> None:
            left = untaken(send) if waits(send) else 0
            while True:
                try:
                    async with asyncio.timeout(self.patience) if waits(send) else nullcontext():
                        await send(message)  # which writes nothing of it before it may
                    return
                except TimeoutError:
                    before, left = left, untaken(send)
                    if left >= before:
                        await hang_up(send)
                        raise ClientDisconnect from None

        await self.edge(scope, receive, sent)


def goes_short(path: str) -> bool:
    """Lists, and what BentoML would answer in another shape, as its own app matches no path of two lines."""
    return path.startswith(SHORT) or "\n" in path


def waits(send: Send) -> bool:
    """Whether uvicorn waits before it sends more, as what it sent is not taken; with another server it may."""
    flow = getattr(getattr(send, "__self__", None), "flow", None)
    return flow is None or bool(flow.write_paused)


def untaken(send: Send) -> int:
    """Bytes that were written and not taken yet. Those that the system holds count, where it tells of them: it asks
    for more only when a good part of its megabytes has gone, which takes a steady but slow reader a while."""
    if (transport := transport_of(send)) is None:
        return 0
    held = array("i", [0])
    with suppress(OSError, AttributeError, ValueError):
        ioctl(transport.get_extra_info("socket").fileno(), TIOCOUTQ, held)
    return int(transport.get_write_buffer_size()) + held[0]


def transport_of(send: Send) -> Any:
    """What uvicorn writes to; None of another server."""
    return getattr(getattr(send, "__self__", None), "transport", None)


async def hang_up(send: Send) -> None:
    """Cut the connection that an answer goes to: closed, it would wait until what was written is read."""
    cycle = getattr(send, "__self__", None)
    if (transport := transport_of(send)) is None:
        return
    log.warning("a client took nothing of its answer for too long, and was hung up on")
    transport.abort()
    for _ in range(100):  # until the loop has told uvicorn, which then expects no end of the answer
        if not getattr(cycle, "disconnected", True):
            await asyncio.sleep(0)


class Direct(Service):  # type: ignore[misc]
    """A BentoML service whose mounted app gets what goes the short way before BentoML's layers do."""

    def to_asgi(self, is_main: bool = True) -> ASGIApp:
        edge, *_ = self.mount_apps[0]
        return Front(super().to_asgi(is_main), edge)


class Routes:
    """Starlette's routes without the layers that it puts around each: `Edge` turns errors into answers."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self.routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises HTTPException: 404 and 405."""
        route = self.find(scope)
        answer = await route.endpoint(Request(scope, receive, send))
        await answer(scope, receive, send)

    def find(self, scope: Scope) -> Route:
        """The route of a request, told to its scope; no path of ours ends in a line break, as Starlette lets one."""
        if "\n" in scope["path"]:
            raise HTTPException(404)
        allowed: set[str] = set()
        for route in self.routes:
            match, about = route.matches(scope)
            if match is Match.NONE:
                continue
            if match is Match.FULL:
                scope.update(about)
                return route
            if not allowed:
                scope.update(about)
            allowed |= route.methods or set()
        if allowed:
            raise HTTPException(405, headers={"Allow": ", ".join(sorted(allowed))})
        raise HTTPException(404)
