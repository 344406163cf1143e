"""Leaving: a worker that is told to end says first that it is not ready, and ends a little later."""

import ctypes
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType

PARENT = os.getppid()  # of a worker, as it begins
DIES = 1  # prctl's PR_SET_PDEATHSIG, of Linux


def with_parent() -> None:
    """Be told to end when the process that started this one is gone, killed perhaps: who is left alone would hold the
    port, and answer for ever."""
    if prctl := getattr(ctypes.CDLL(None), "prctl", None):
        prctl(DIES, signal.SIGTERM)
    if os.getppid() != PARENT:  # it has gone already
        os.kill(os.getpid(), signal.SIGTERM)


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
