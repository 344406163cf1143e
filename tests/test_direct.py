"""The short way of a request, and what keeps it from waiting."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send
from web import Web

from serving.keys import SECRET

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # BentoML's own, at import


def named(name: str, seen: list[str]) -> object:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(name)

    return app


@pytest.mark.parametrize(
    ("kind", "path", "goes"),
    [
        ("http", "/v1/recommend/next_best", "edge"),
        ("http", "/v1/recommend/next_best/batch", "edge"),
        ("http", "/readyz", "bento"),
        ("http", "/v1/events", "bento"),
        ("lifespan", "", "bento"),
    ],
)
def test_lists_alone_go_the_short_way(kind: str, path: str, goes: str) -> None:
    from serving.direct import Front

    seen: list[str] = []
    front = Front(named("bento", seen), named("edge", seen))  # type: ignore[arg-type]
    asyncio.run(front({"type": kind, "path": path}, None, None))  # type: ignore[arg-type]
    assert seen == [goes]


def test_the_service_is_put_together_so() -> None:
    from serving.direct import Direct
    from serving.service import EDGE, Service

    made: Any = Service
    (edge, path, _), *others = made.mount_apps
    assert type(made) is Direct
    assert (edge, path, others) == (EDGE, "/", [])


def test_a_body_that_does_not_come_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from serving import service

    monkeypatch.setattr(service, "PATIENCE", 0.01)
    web = Web(tmp_path)

    async def slow() -> AsyncIterator[bytes]:
        yield b'{"limit"'
        await asyncio.sleep(60)

    refused = web.ask("POST", "/v1/recommend/trending", kind=SECRET, content=slow())
    web.close()
    assert (refused.status_code, refused.json()["fields"][0]["field"]) == (408, "body")


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "trending", 405), ("POST", "a/b/c", 404)])
def test_what_no_route_takes_is_told_in_our_shape(
    tmp_path: Path, method: str, path: str, status: int
) -> None:
    web = Web(tmp_path)
    told = web.ask(method, f"/v1/recommend/{path}", kind=SECRET)
    web.close()
    assert told.status_code == status and told.json()["fields"] == []
    assert status == 404 or told.headers["allow"] == "POST"
