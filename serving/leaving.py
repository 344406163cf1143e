"""Leaving: a worker that is told to end says first that it is not ready, and ends a little later."""

import signal
import threading
from collections.abc import Callable
from types import FrameType


def slowly(seconds: float, leave: Callable[[], None]) -> None:
    """At SIGTERM call `leave` at once, and `seconds` later what SIGTERM called until now.

    In between requests are answered as ever, while whoever spreads them learns to ask elsewhere.
    """
    before = signal.getsignal(signal.SIGTERM)
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        return

    def told(number: int, frame: FrameType | None) -> None:
        leave()
        threading.Timer(seconds, before, (number, frame)).start()

    signal.signal(signal.SIGTERM, told)
