"""`POST /v1/recommend/{placement}/batch`: a question a line, an answer a line, as many as you like.

The questions are laid aside on disk as they arrive, and answered when the last has come: most clients read nothing
before they have sent everything, and would wait for a service that will not take more until they read.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from tempfile import SpooledTemporaryFile
from typing import IO

from pydantic import Field
from pydantic_core import from_json
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serving.body import media_type, read_timely
from serving.headers import JSON, NDJSON
from serving.keys import ALL
from serving.openapi import Operation
from serving.schemas import ErrorBody, FieldError, Question, RecommendResponse
from serving.turns import Turns
from serving.wire import PATIENCE, RequestError, Wire

MAX_LINE = 100_000  # bytes of a question
MAX_BATCH = 1 << 30  # bytes of all
MEMORY = 1 << 20  # bytes of questions held before they go to disk
TOGETHER = 20  # answers that travel together


class BatchAnswer(Wire):
    """A line of the answer; the last is a BatchEnd."""

    line: int = Field(description="the question's place in what was sent, from 1; blank lines count")
    query_id: str | int | None = None
    answer: RecommendResponse | None = Field(None, description="missing: see error")
    error: str | None = None
    fields: tuple[FieldError, ...] = ()


class BatchEnd(Wire):
    """The last line. Where it is missing the answer was cut off."""

    lines: int = Field(description="how many were not blank")
    answered: int
    failed: int


OPERATION = Operation(
    "recommend_batch",
    "POST",
    "/v1/recommend/{placement}/batch",
    "Many lists for a placement: a question a line, or a JSON list of questions or customer ids",
    answer=BatchAnswer,
    answers=NDJSON,
    body=Question,
    bodies=True,
    takes=(NDJSON,),
    scope=ALL,
    example=({"query_id": 1, "customer_id": "1", "limit": 3}, {"query_id": 2, "product_ids": ["1082185"]}),
)

Answer = Callable[[Question], RecommendResponse]
Explain = Callable[[Exception], ErrorBody]
Keep = Callable[[], Awaitable[None]]  # what must be kept of the answers so far, before they are told


class Batch(Response):
    """Takes the questions of a request, and answers them as they are read."""

    def __init__(self, request: Request, turns: Turns, answer: Answer, explain: Explain, keep: Keep) -> None:
        """Raises RequestError for what is neither JSON nor NDJSON, and for what says that it is too large."""
        super().__init__(media_type=NDJSON)
        del self.headers["content-length"]
        self.request, self.turns, self.answer, self.explain = request, turns, answer, explain
        self.keep = keep
        self.kind = media_type(request, (JSON, NDJSON))
        announced = request.headers.get("content-length", "")
        if announced.isdigit() and int(announced) > MAX_BATCH:
            raise too_large()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A JSON list is refused as a whole where it is none. Of lines, which may be long on their way, the head of
        the answer goes first: who hears nothing for a while gives up, and so does a proxy."""
        with SpooledTemporaryFile(MEMORY) as questions:
            if self.kind == JSON:
                await self.lay_aside(questions)
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await self.stream(questions, send)

    async def stream(self, questions: IO[bytes], send: Send) -> None:
        async def say(text: bytes, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": text, "more_body": more})

        try:
            if self.kind != JSON:
                await self.lay_aside(questions)
            await self.answer_all(questions, say)
        except ClientDisconnect:
            return
        except Exception as error:
            await say(written(self.explain(error)))
        await say(b"", more=False)

    async def lay_aside(self, questions: IO[bytes]) -> None:
        if self.kind == JSON:
            asked = listed(await read_timely(self.request))
            questions.writelines(json.dumps(one).encode() + b"\n" for one in asked)
        else:
            async for chunk in timely(self.request.stream()):
                questions.write(chunk)
                if questions.tell() > MAX_BATCH:
                    raise too_large()
        questions.seek(0)

    async def answer_all(self, questions: IO[bytes], say: Callable[..., object]) -> None:
        """Each in its turn, between others' requests, until all are answered or nobody listens any more."""
        asked, failed, ready = 0, 0, list[bytes]()
        for number, line in lines(questions):
            told = await self.turns.patiently(lambda n=number, text=line: self.answered(n, text))  # type: ignore[misc]
            asked += 1
            failed += told.answer is None
            ready.append(written(told))
            if len(ready) == TOGETHER:
                await self.keep()
                await say(b"".join(ready))  # type: ignore[misc]
                ready.clear()
                if await self.request.is_disconnected():
                    raise ClientDisconnect
        await self.keep()
        ready.append(written(BatchEnd(lines=asked, answered=asked - failed, failed=failed)))
        await say(b"".join(ready))  # type: ignore[misc]

    def answered(self, number: int, line: bytes) -> BatchAnswer:
        """The answer to a line, or what is wrong with it: a broken one costs no other."""
        try:
            if len(line) > MAX_LINE:
                raise RequestError("line", f"longer than {MAX_LINE:,} bytes")
            question = Question.model_validate_json(line)
            return BatchAnswer(line=number, query_id=question.query_id, answer=self.answer(question))
        except Exception as error:
            said = self.explain(error)
            return BatchAnswer(line=number, query_id=query_id(line), error=said.error, fields=said.fields)


async def timely(parts: AsyncGenerator[bytes]) -> AsyncIterator[bytes]:
    """The parts as they come. Raises RequestError where one keeps us waiting for longer than PATIENCE."""
    while True:
        try:
            async with asyncio.timeout(PATIENCE):
                part = await anext(parts, None)
        except TimeoutError:
            raise RequestError("body", f"nothing came for {PATIENCE} seconds: send it again", 408) from None
        if part is None:
            return
        yield part


def too_large() -> RequestError:
    return RequestError("body", f"larger than {MAX_BATCH:,} bytes: ask in parts", 413)


def query_id(line: bytes) -> str | int | None:
    """What a line that is refused calls itself, where it is JSON and says so."""
    try:
        found = from_json(line)
    except ValueError:
        return None
    named = found.get("query_id") if isinstance(found, dict) else None
    return named if isinstance(named, str | int) and not isinstance(named, bool) else None


def lines(questions: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, each with its number among all. Of one that is too long, its beginning."""
    number = 0
    while line := questions.readline(MAX_LINE + 1):
        number += 1
        rest = line
        while len(rest) > MAX_LINE and not rest.endswith(b"\n"):
            rest = questions.readline(MAX_LINE + 1)
        if line.strip():
            yield number, line


def listed(body: bytes) -> list[object]:
    """The questions of a JSON list; a text in it is a customer's id."""
    try:
        found = from_json(body or b"[]")
    except ValueError as error:
        raise RequestError("body", "it is not JSON") from error
    if not isinstance(found, list):
        raise RequestError("body", "it is no list: send [{…}, …], or a question a line as " + NDJSON)
    return [{"customer_id": asked} if isinstance(asked, str) else asked for asked in found]


def written(line: Wire) -> bytes:
    return line.model_dump_json().encode() + b"\n"
