"""The short way of a request, and what keeps it from waiting."""

import asyncio
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
import uvicorn
from starlette.requests import Request
from starlette.types import Receive, Scope, Send
from web import NOW, Web

from serving import body
from serving.headers import JSON, NDJSON
from serving.keys import SECRET
from serving.schemas import RecommendRequest, RecommendResponse
from serving.turns import Turns
from serving.wire import RequestError

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
        ("http", "/v1/customers/a\nb", "edge"),
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
    monkeypatch.setattr(body, "PATIENCE", 0.01)
    web = Web(tmp_path)

    async def slow() -> AsyncIterator[bytes]:
        yield b'{"limit"'
        await asyncio.sleep(60)

    refused = web.ask("POST", "/v1/recommend/trending", kind=SECRET, content=slow())
    web.close()
    assert (refused.status_code, refused.json()["fields"][0]["field"]) == (408, "body")


# --- over a socket ---------------------------------------------------------------------------------------------


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Web, uvicorn.Server, int]]:
    """The app behind uvicorn as a worker has it, in a thread; BentoML's part answers nothing."""
    from serving.direct import Front

    web = Web(tmp_path, asks=False)
    front = Front(named("bento", []), web.edge, patience=0.2)  # type: ignore[arg-type]
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()  # so that who comes first waits
        server = uvicorn.Server(uvicorn.Config(front, lifespan="off", log_config=None))
        running = Thread(target=server.run, args=([listening],), daemon=True)
        running.start()
        yield web, server, listening.getsockname()[1]
        server.should_exit = server.force_exit = True
        running.join(30)
    web.close()
    assert not running.is_alive()


def request(path: str, sent: bytes, kind: str = JSON) -> bytes:
    head = f"POST /v1/recommend/{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\n"
    return f"{head}Content-Length: {len(sent)}\r\n\r\n".encode() + sent


def connected(port: int) -> socket.socket:
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(60)
    client.connect(("127.0.0.1", port))
    return client


def test_a_path_of_two_lines_is_none_of_ours(served: tuple[Web, uvicorn.Server, int]) -> None:
    with connected(served[2]) as client:
        client.sendall(b"POST /v1/events%0A HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n{")
        answer = client.recv(4096)
    assert answer.startswith(b"HTTP/1.1 404") and b'"fields"' in answer


def test_a_body_that_has_come_is_read_and_one_on_its_way_is_bounded(
    served: tuple[Web, uvicorn.Server, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    told, whole = list[bool](), body.has_come

    def noted(of: Request) -> bool:
        told.append(whole(of))
        return told[-1]

    monkeypatch.setattr(body, "has_come", noted)
    monkeypatch.setattr(body, "PATIENCE", 0.1)
    for cut, status in ((None, b"200"), (-1, b"408")):
        with connected(served[2]) as client:
            client.sendall(request("trending", b'{"limit": 1}')[:cut])
            assert client.recv(4096).startswith(b"HTTP/1.1 " + status)
    assert told == [True, False]


def test_who_reads_nothing_is_hung_up_on_and_others_are_answered(
    served: tuple[Web, uvicorn.Server, int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    web, server, port = served
    fixed, made = web.site.engine.recommend("trending", RecommendRequest(), at=NOW), list[int]()

    def listed(*_: Any, **__: Any) -> RecommendResponse:
        made.append(1)
        return fixed

    monkeypatch.setattr(web.site.engine, "recommend", listed)
    with connected(port) as deaf, connected(port) as other:
        deaf.sendall(request("trending/batch", b"{}\n" * 20_000, NDJSON))
        other.sendall(request("trending", b"{}"))
        assert other.recv(4096).startswith(b"HTTP/1.1 200")
        deadline = time.monotonic() + 60
        state = server.server_state
        while (len(state.connections) > 1 or state.tasks) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(state.connections) == 1 and len(state.tasks) == 0
        assert 0 < len(made) < 20_000, "nothing is made any more for who does not read"
        told = b""
        with suppress(ConnectionResetError):
            while part := deaf.recv(1 << 16):
                told += part
        assert told.startswith(b"HTTP/1.1 200") and b'"lines"' not in told
    assert [r.getMessage() for r in caplog.records if r.levelname == "ERROR"] == []


def test_who_reads_slowly_but_steadily_gets_all_of_it(
    served: tuple[Web, uvicorn.Server, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By buffers as they come, megabytes, of which the system asks for more only when a good part has gone."""
    web, _, port = served
    fixed = web.site.engine.recommend("trending", RecommendRequest(), at=NOW)
    monkeypatch.setattr(web.site.engine, "recommend", lambda *_, **__: fixed)
    with socket.create_connection(("127.0.0.1", port), timeout=60) as slow:
        slow.sendall(request("trending/batch", b"{}\n" * 8_000, NDJSON))
        end, taken = b"", 0
        while not end.endswith(b"0\r\n\r\n"):
            part = slow.recv(150_000)
            assert part, f"hung up on after {taken:,} bytes"
            taken, end = taken + len(part), end[-10:] + part
            time.sleep(0.05)
    assert b'{"lines":8000,"answered":8000,"failed":0}' in end and taken > 5_000_000


def test_nothing_is_made_any_more_for_who_hangs_up(
    served: tuple[Web, uvicorn.Server, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    web, server, port = served
    recommend, made = web.site.engine.recommend, list[int]()

    def listed(*args: Any, **about: Any) -> RecommendResponse:
        made.append(1)
        return recommend(*args, **about)

    monkeypatch.setattr(web.site.engine, "recommend", listed)
    with connected(port) as client:
        client.sendall(request("trending/batch", b"{}\n" * 50_000, NDJSON))
        assert client.recv(4096).startswith(b"HTTP/1.1 200")
    deadline = time.monotonic() + 60
    while server.server_state.tasks and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not server.server_state.tasks and len(made) < 50_000


def test_a_crowd_is_refused_in_part_at_once_and_then_it_recovers(
    served: tuple[Web, uvicorn.Server, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    web, _, port = served
    web.turns.most = 4
    web.turns.work, web.turns.lists = 4.0, 2.0  # two seconds each
    recommend = web.site.engine.recommend

    all_are_here = Event()

    def held(*args: Any, **about: Any) -> RecommendResponse:
        all_are_here.wait(60)
        return recommend(*args, **about)

    monkeypatch.setattr(web.site.engine, "recommend", held)
    crowd = [HTTPConnection("127.0.0.1", port, timeout=60) for _ in range(40)]
    for one in crowd:
        one.request("POST", "/v1/recommend/trending")
    all_are_here.set()
    told = [one.getresponse() for one in crowd]
    assert Counter(answer.status for answer in told).keys() == {200, 503}
    assert {answer.getheader("Retry-After") for answer in told if answer.status == 503} == {"1"}
    for one, answer in zip(crowd, told, strict=True):
        answer.read()
        one.request("POST", "/v1/recommend/trending")
        assert one.getresponse().status == 200
        one.close()


@pytest.mark.parametrize(("standing", "least"), [(1.0, 40), (0.0, 12)])
def test_a_burst_is_answered_and_of_a_queue_that_stands_what_comes_soon(
    monkeypatch: pytest.MonkeyPatch, standing: float, least: int
) -> None:
    monkeypatch.setattr("serving.turns.STANDING", standing)
    turns = Turns(most=2)
    turns.work, turns.lists = (
        2.0,
        100.0,
    )  # so that 12 are answered in a quarter of a second, and 125 in two and a half

    async def crowd(count: int) -> list[object]:
        return await asyncio.gather(*(turns.compute(lambda: 1) for _ in range(count)), return_exceptions=True)

    told = asyncio.run(crowd(40))
    assert least <= told.count(1) <= least + 1
    assert all(answer == 1 or isinstance(answer, RequestError) for answer in told) and turns.waiting == 0


def used_to(takes: float) -> Turns:
    turns = Turns()
    for _ in range(int(4 / takes)):
        turns.took(takes)
    assert turns.takes == pytest.approx(takes)
    return turns


def test_one_list_that_took_long_says_nothing_of_those_behind_it() -> None:
    turns = used_to(0.001)

    async def crowd() -> list[object]:
        await turns.compute(lambda: time.sleep(0.4))  # as where the machine pauses
        return await asyncio.gather(*(turns.compute(lambda: 1) for _ in range(300)), return_exceptions=True)

    assert asyncio.run(crowd()) == [1] * 300


def test_a_slow_moment_is_one_and_what_lasts_is_soon_known() -> None:
    turns = used_to(0.001)
    for _ in range(40):  # 0.4 s
        turns.took(0.01)
    assert turns.takes < 0.0015
    for _ in range(360):
        turns.took(0.01)
    assert turns.takes > 0.004


def test_who_waited_too_long_is_told_so_and_costs_no_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.turns.LONGEST", 0.1)
    turns, made = used_to(0.001), list[int]()

    async def crowd() -> list[object]:
        late = (turns.compute(lambda: made.append(1)) for _ in range(20))
        _, *found = await asyncio.gather(
            turns.compute(lambda: time.sleep(0.3)), *late, return_exceptions=True
        )
        return [*found, await turns.compute(lambda: "on time")]

    *late, on_time = asyncio.run(crowd())
    assert on_time == "on time" and not made and turns.waiting == 0
    assert {getattr(error, "status", None) for error in late} == {503}


def test_who_reads_slowly_gets_all_of_it(served: tuple[Web, uvicorn.Server, int]) -> None:
    _, _, port = served
    with connected(port) as slow:
        slow.sendall(request("trending/batch", b"{}\n" * 200, NDJSON))
        told = b""
        while not told.endswith(b"0\r\n\r\n"):
            time.sleep(0.002)
            told += slow.recv(4096)
    assert told.count(b'"recommendation_id"') == 200 and b'{"lines":200,"answered":200,"failed":0}' in told


def test_a_batch_that_stops_on_its_way_is_given_up(
    served: tuple[Web, uvicorn.Server, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.batch.PATIENCE", 0.1)
    _, _, port = served
    with connected(port) as stuck:
        stuck.sendall(request("trending/batch", b"{}\n" * 9, NDJSON)[:-3])
        told = b""
        while not told.endswith(b"0\r\n\r\n"):
            told += stuck.recv(4096)
    assert b"nothing came for" in told and b'"lines"' not in told


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "trending", 405), ("POST", "a/b/c", 404)])
def test_what_no_route_takes_is_told_in_our_shape(
    tmp_path: Path, method: str, path: str, status: int
) -> None:
    web = Web(tmp_path)
    told = web.ask(method, f"/v1/recommend/{path}", kind=SECRET)
    web.close()
    assert told.status_code == status and told.json()["fields"] == []
    assert status == 404 or told.headers["allow"] == "POST"
