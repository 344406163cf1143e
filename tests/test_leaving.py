"""The service from outside: on an address that others reach, and while it ends."""

import json
import signal
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil  # type: ignore[import-untyped]
import pytest
import running
import tiny
from running import Server, start, stop

from serving.keys import PUBLISHABLE, SECRET, end, make
from serving.store import Store, address

DRAIN = 1.0
SHOP = "https://shop.example"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    tiny.bundle(home / "bundles" / "1", tiny.GROCERIES, tiny.GROCER)
    (home / "champion").write_text("1\n")
    return home


@pytest.fixture(scope="module")
def keys(home: Path) -> dict[str, str]:
    with Store(address(home, None)) as store:
        now = datetime.now(UTC)
        return {
            SECRET: make(store, SECRET, at=now),
            PUBLISHABLE: make(store, PUBLISHABLE, at=now, origins=[SHOP]),
        }


@pytest.fixture(scope="module")
def server(home: Path, keys: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One worker that asks for keys on loopback, and takes a while to leave."""
    settings = {"home": str(home), "as_of": running.AS_OF, "ask_keys": "yes", "drain": str(DRAIN)}
    server = start("serving.service:Service", tmp_path_factory.mktemp("bento"), settings)
    yield server
    stop(server)


def test_workers_end_with_who_started_them(home: Path, tmp_path: Path) -> None:
    """Killed as for want of memory, it tells them nothing; the port is free again, and a new one may start."""
    server = start("serving.service:Service", tmp_path, {"home": str(home), "as_of": running.AS_OF})
    workers = psutil.Process(server.process.pid).children(recursive=True)
    server.process.kill()
    _, left = psutil.wait_procs(workers, timeout=30)
    for worker in left:
        worker.kill()
    assert workers and not left


def test_none_of_its_memory_becomes_huge_pages(server: Server) -> None:
    """As it would where Linux makes a huge page of each that a large array has left, minutes after it was freed."""
    service = psutil.Process(server.process.pid)
    told = [
        Path(f"/proc/{one.pid}/status").read_text() for one in (service, *service.children(recursive=True))
    ]
    assert sum("THP_enabled:\t0" in text for text in told) >= 2  # itself and its worker


def test_elsewhere_than_here_it_starts_with_keys_alone(tmp_path: Path) -> None:
    tiny.bundle(tmp_path / "bundle", tiny.GROCERIES, tiny.GROCER)
    settings = {"bundle": str(tmp_path / "bundle"), "as_of": running.AS_OF}
    with pytest.raises(
        RuntimeError, match=r"0\.0\.0\.0 is reached from elsewhere.*osclms keys make"
    ) as ended:
        start("serving.service:Service", tmp_path, settings, host="0.0.0.0")
    assert "Traceback" not in str(ended.value)


def test_keys_are_asked_for_and_followed_while_it_runs(
    server: Server, home: Path, keys: dict[str, str]
) -> None:
    url, bearer = server.url + "/v1/recommend/next_best", {"Authorization": f"Bearer {keys[SECRET]}"}
    assert httpx.post(url).status_code == 401
    assert httpx.post(url, headers=bearer).status_code == 200
    with Store(address(home, None)) as store:
        late = make(store, SECRET, at=datetime.now(UTC))
        header = {"Authorization": f"Bearer {late}"}
        assert comes(lambda: httpx.post(url, headers=header).status_code == 200)
        end(store, late.split("_")[2], at=datetime.now(UTC))
        assert comes(lambda: httpx.post(url, headers=header).status_code == 401)


def comes(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + running.PATIENCE
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(0.2)
    return False


def test_a_batch_comes_over_a_socket_while_others_are_answered(server: Server, keys: dict[str, str]) -> None:
    bearer = {"Authorization": f"Bearer {keys[SECRET]}", "Content-Type": "application/x-ndjson"}
    batch, single = (server.url + f"/v1/recommend/next_best{part}" for part in ("/batch", ""))
    with httpx.Client(timeout=60) as http:
        with http.stream("POST", batch, content=b"{}\n" * 500, headers=bearer) as answer:
            lines = answer.iter_lines()
            first = json.loads(next(lines))
            assert httpx.post(single, headers={"Authorization": bearer["Authorization"]}).status_code == 200
            *_, last = lines
        assert first["answer"]["items"] and json.loads(last) == {
            "lines": 500,
            "answered": 500,
            "failed": 0,
        }


def test_it_ends_what_it_has_begun_and_says_first_that_it_leaves(
    server: Server, keys: dict[str, str]
) -> None:
    """A batch is half sent when the service is told to end, and the rest of it comes after that."""
    where = urlsplit(server.url)
    bearer = f"Authorization: Bearer {keys[SECRET]}"
    with socket.create_connection((str(where.hostname), int(where.port or 0)), timeout=60) as open_one:
        head = f"POST /v1/recommend/next_best/batch HTTP/1.1\r\nHost: x\r\n{bearer}\r\nContent-Length: 12\r\n"
        open_one.sendall(f"{head}Content-Type: application/x-ndjson\r\n\r\n".encode() + b'{"limit"')
        assert open_one.recv(1_000).startswith(b"HTTP/1.1 200 ")
        assert httpx.get(server.url + "/readyz").status_code == 200
        server.process.send_signal(signal.SIGTERM)
        assert comes(lambda: httpx.get(server.url + "/readyz").status_code == 503)
        late = httpx.get(server.url + "/v1/widget.js")
        assert late.status_code == 200, "it goes on answering until it is known to leave"
        assert comes(lambda: gone(server.url))
        open_one.sendall(b": 1}")
        answer = b"".join(iter(lambda: open_one.recv(100_000), b"")).decode()
    assert '"items":[{' in answer and '"answered":1' in answer
    assert server.process.wait(running.PATIENCE) in (0, -signal.SIGTERM)
    for line in server.log.read_text().splitlines():
        assert {"at", "level", "logger", "message"} <= set(json.loads(line)), line
        assert keys[SECRET] not in line


def gone(url: str) -> bool:
    try:
        httpx.get(url + "/livez", timeout=5)
    except httpx.TransportError:
        return True
    return False
