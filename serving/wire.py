"""What every message on the wire is made of, and how a request that cannot be answered says so."""

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

SHORT = "/v1/recommend/"  # whatever begins so goes the short way (serving/direct.py)
MAX_LIMIT = 100  # products of a list
PATIENCE = 10  # seconds that a request may be on its way, and an answer in the making


class Wire(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def worded(fault: Mapping[str, Any]) -> str:
    """What a fault that pydantic found says, in the words of who wrote it."""
    told = str(fault["msg"]).removeprefix("Value error, ")
    return re.sub(r"^Tuple should", "List should", told).replace("valid tuple", "valid list")


def faults_told(error: ValidationError) -> list[ErrorDetails]:
    """What pydantic found wrong. A list whose items are wrong is not told to be short of them, too."""
    told = error.errors(include_url=False, include_context=False, include_input=False)
    deeper = {fault["loc"][:end] for fault in told for end in range(len(fault["loc"]))}
    return [fault for fault in told if fault["type"] != "too_short" or fault["loc"] not in deeper]


class RequestError(ValueError):
    """A request that cannot be answered: names the field, says the way out. Answered as 400, or as it says."""

    def __init__(
        self, field: str, message: str, status: int = 400, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(f"{field}: {message}")
        self.field, self.message, self.status, self.headers = field, message, status, dict(headers or {})
