"""Logs as a program reads them: a JSON object a line.

An exception is told by its type and by where it was raised. What it says, and any values beside it, may be what
a caller sent, so they stay out.
"""

import json
import logging
import traceback
from datetime import UTC, datetime

from serving.bundle import BundleError
from serving.misread import Misread
from serving.store import StoreError

LOGGERS = ("", "bentoml", "uvicorn.error", "circus")  # those that BentoML gives handlers
ABOUT = "about"  # the `extra` of a record whose fields stand in the line: words and numbers of ours


class JsonLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
            **getattr(record, ABOUT, {}),
        }
        if record.exc_info and record.exc_info[0]:
            kind, _, trace = record.exc_info
            line |= {"exception": kind.__name__, "frames": traceback.format_tb(trace)}
        return json.dumps(line, ensure_ascii=False, default=str)


def why(error: Exception) -> str:
    """What a log tells of an error: of ours its message, which is written for it, of others the kind alone."""
    return str(error) if isinstance(error, BundleError | Misread | StoreError) else type(error).__name__


def structured() -> None:
    """From here on this process writes JSON lines."""
    for name in LOGGERS:
        for handler in logging.getLogger(name).handlers:
            handler.setFormatter(JsonLine())
    logging.getLogger("osclms").setLevel(logging.INFO)
