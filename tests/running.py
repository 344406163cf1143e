"""A real server for tests: `bentoml serve` as a process of its own, once a test process."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import httpx
import psutil  # type: ignore[import-untyped]

ROOT = Path(__file__).parent.parent
AS_OF = "2030-01-01"  # after the data of any test shop
WORKERS = 2
SECRET = "c2VjcmV0LW9mLXRoZS10ZXN0cy1hbmQtb2Ytbm9ib2Q="  # 32 bytes, as Fernet has its keys
SHOP_URL, PUBLIC_URL = "https://shop.example/", "https://go.shop.example"
PATIENCE = 90.0


@dataclass(frozen=True)
class Server:
    url: str
    log: Path
    process: "subprocess.Popen[bytes]"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def environment(folder: Path, settings: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with only these settings of ours. BentoML's state goes to `folder`.

    Two servers of one BENTOML_HOME would share, and wipe, each other's metrics.
    """
    inherited = {name: text for name, text in os.environ.items() if not name.startswith("OSCLMS_")}
    ours = {f"OSCLMS_{name.upper()}": text for name, text in settings.items()}
    ours = {"OSCLMS_DRAIN": "0", **ours}  # so that tests need not wait for it
    return {**inherited, **ours, "BENTOML_HOME": str(folder), "BENTOML_DO_NOT_TRACK": "True"}


def start(
    what: str,
    folder: Path,
    settings: Mapping[str, str],
    *,
    cwd: Path = ROOT,
    python: str = sys.executable,
    host: str = "127.0.0.1",
) -> Server:
    port, log = free_port(), folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [python, "-m", "bentoml", "serve", what, "--host", host, "--port", str(port)],
            cwd=cwd,
            env=environment(folder, settings),
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Server(f"http://127.0.0.1:{port}", log, process)
    STARTED.append(server)
    wait(server)
    return server


STARTED: list[Server] = []


def stop_all() -> None:
    """At the session's end, as who ends a test process gives it no time after that."""
    while STARTED:
        stop(STARTED.pop())


def stop(server: Server) -> None:
    """The server and its workers. Each worker is a session of its own: a signal to the group misses them."""
    with suppress(psutil.NoSuchProcess):
        workers = psutil.Process(server.process.pid).children(recursive=True)
        server.process.terminate()
        _, left = psutil.wait_procs(workers, timeout=10)
        for worker in left:
            worker.kill()
    server.process.kill()
    server.process.wait()


def wait(server: Server) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and server.process.poll() is None:
        try:
            if httpx.get(server.url + "/readyz", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    stop(server)
    raise RuntimeError(f"the server did not come up:\n{server.log.read_text()}")


@cache
def shop(home: Path, **more: str) -> Server:
    """The service over the shop's champion, with two workers, asked as of AS_OF. Who writes names a `database_url` of
    their own: the home is shared."""
    folder = Path(tempfile.mkdtemp(prefix="osclms-test-"))
    settings = {
        "home": str(home), "as_of": AS_OF, "workers": str(WORKERS),
        "secret": SECRET, "shop_url": SHOP_URL, "public_url": PUBLIC_URL, **more,
    }  # fmt: skip
    return start("serving.service:Service", folder, settings)
