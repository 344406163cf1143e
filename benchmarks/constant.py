"""This project's service with an engine that always gives one answer, so that all but the engine is measured.

The answer stands in the file BENCH_ANSWER.
"""

from functools import cache
from typing import Any

import bentoml

from benchmarks.sides import recorded
from serving import service
from serving.direct import Direct
from serving.engine import Engine
from serving.schemas import RecommendRequest, RecommendResponse


class Same(Engine):
    """Over a bundle as ever, and asked as ever."""

    def recommend(
        self, placement: str, request: RecommendRequest, *, at: object, remember: bool = False
    ) -> RecommendResponse:
        return answer()


@cache
def answer() -> RecommendResponse:
    return RecommendResponse.model_validate_json(recorded())


setattr(service, "Engine", Same)  # noqa: B010 - mypy knows that it is a class
OURS: Any = service.Service
Inner = bentoml.asgi_app(service.EDGE, path="/")(type("Constant", (OURS.inner,), {}))
Constant = bentoml.service(Inner, name="constant", service_class=Direct, **OURS.config)
