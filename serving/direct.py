"""The short way of a request: from uvicorn's hands to `Edge`, past the layers that BentoML and Starlette put between.

They cost more than a list does. Starting, ending, readiness and all that is not asked for in the moment stay BentoML's.
"""

from collections.abc import Sequence

from _bentoml_sdk import Service
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

SHORT = "/v1/recommend/"  # whatever begins so goes the short way


class Front:
    """An ASGI app: `edge` for what goes the short way, BentoML's own app for the rest."""

    def __init__(self, bento: ASGIApp, edge: ASGIApp) -> None:
        self.bento, self.edge = bento, edge

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        short = scope["type"] == "http" and scope["path"].startswith(SHORT)
        await (self.edge if short else self.bento)(scope, receive, send)


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
        """The route of a request, told to its scope."""
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
