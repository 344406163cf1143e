"""The load at a constant rate, held against a server whose every answer is known."""

import asyncio
import json
import os
from pathlib import Path
from typing import cast

import pytest
import uvloop

from benchmarks.steady import Load, Told, whole

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # BentoML's own, at import
STALL = 0.2


class Server(asyncio.Protocol):
    """Answers 200 in two pieces, every tenth with 503; hangs up at the 25th, and is slow at the 15th."""

    asked: list[bytes]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one by what it does alone

    def data_received(self, data: bytes) -> None:
        self.asked.append(data)
        number = len(self.asked)
        if number == 25:
            self.transport.close()
            return
        status = b"503 Busy" if number % 10 == 0 else b"200 OK"
        head = b"HTTP/1.1 " + status + b"\r\nContent-Length: 4\r\n\r\nab"
        loop = asyncio.get_running_loop()
        loop.call_later(STALL if number == 15 else 0, self.transport.write, head)
        loop.call_later(STALL if number == 15 else 0, self.transport.write, b"cd")


def test_each_request_is_sent_and_what_fails_is_counted() -> None:
    asked: list[bytes] = []

    async def run() -> Told:
        server = type("Known", (Server,), {"asked": asked})
        listening = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        load = Load(f"http://127.0.0.1:{port}/v1/x", [b'{"n": "@N@"}', b"{}"], 100, 0.4, "secret")
        told = await load.run()
        listening.close()
        return told

    told = uvloop.run(run())
    assert (told.sent, told.answered, told.failed, told.refused) == (40, 39, 4 + 1, {"503": 4})
    assert told.worst_ms > 900 * STALL
    assert sorted(json.loads(one.split(b"\r\n\r\n")[1]).get("n", "") for one in asked)[20:] == sorted(
        str(n) for n in range(0, 40, 2)
    )
    assert all(b"POST /v1/x HTTP/1.1\r\n" in one and b"Bearer secret" in one for one in asked)


@pytest.mark.parametrize(
    ("answer", "ended"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nContent-Le", False),
    ],
)
def test_an_answer_is_whole_when_its_body_is(answer: bytes, ended: bool) -> None:
    assert whole(answer) is ended


def test_ratios_are_of_the_same_round() -> None:
    from benchmarks import serving

    rates = {"bare": [100.0, 10.0, 50.0], "constant": [30.0, 3.0, 15.0], "next_best": [10.0, 2.0, 5.0]}
    rates |= {
        "fresh": [9.0, 1.0, 5.0],
        "peer": [5.0, 4.0, 5.0],
        "cart": [4.0, 2.0, 4.0],
        "news": [8.0, 8.0, 8.0],
    }
    cpu = {"cart": [0.2, 0.4, 0.25], "news": [0.05, 0.1, 0.1]}
    found = {figure.name: figure for figure in serving.speed(rates, cpu, workers=1)}
    ratio = {name.split(" × ")[0]: (f.value, f.met) for name, f in found.items() if f.unit == "×"}
    assert ratio["one answer through our route"] == (0.3, True)
    assert found["next_best of a customer without news × Starlette on uvicorn, the same bytes"].value == 0.1
    assert found["next_best of a customer without news × FastAPI and implicit's recommend"].value == 1.0
    assert ratio["cross_sell of a cart, a core's rate"] == (0.8, True)
    assert ratio["next_best of a customer with news, a core's rate"] == (0.8, True)


def test_memory_is_told_of_what_lives() -> None:
    from benchmarks import serving

    assert 10 < serving.memory_mb(os.getpid()) < 10_000
    assert serving.pss_kb(2**22 + 1) == 0


def test_the_table_goes_between_its_marks(tmp_path: Path) -> None:
    from benchmarks import serving
    from benchmarks.quality import write

    page = tmp_path / "page.md"
    page.write_text(f"# Before\n{serving.MARKS[0]}\nold\n{serving.MARKS[1]}\nAfter.\n")
    figures = serving.of_bulk([(1_000.0, 5_000.0), (900.0, 1_800.0), (800.0, 2_000.0)])
    write(page, serving.markdown(figures, ["of a test"]), serving.MARKS)
    text = page.read_text()
    assert "| streamed × implicit's batches | 0.4 × | ≥ 0.3 |" in text and "- of a test" in text
    assert "old" not in text and text.endswith("After.\n")
