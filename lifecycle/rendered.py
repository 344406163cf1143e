"""What a message says, filled as it is sent."""

from dataclasses import dataclass
from datetime import datetime

from lifecycle.drafts import Draft, lacking
from lifecycle.messages import PLAIN, one_line
from lifecycle.programs import Program, locale_for
from serving.engine import Engine
from serving.links import Links


class NotSent(Exception):
    """The message is not sent; the text says why."""


@dataclass(frozen=True)
class About:
    first_name: str | None = None
    locale: str | None = None
    time_zone: str | None = None
    unsubscribe_url: str | None = None
    rate_url: str | None = None


@dataclass(frozen=True)
class Message:
    subject: str
    text: str
    html: str
    sms: str = ""
    push: str = ""


def rendered(
    engine: Engine, program: Program, draft: Draft, about: About, *, links: Links | None, now: datetime
) -> Message:
    shelves = [[i for i in held.items if engine.offered(i.product_id)] for held in draft.lists]
    if why := lacking(program, shelves):
        raise NotSent(why)
    texts = program.texts[locale_for(program.texts, about.locale)]
    words = {"first_name": about.first_name, **draft.words}
    subject, body = (PLAIN.from_string(text).render(**words) for text in (texts.subject, texts.body))
    titles = [
        f"- {found.title}" for items in shelves for i in items if (found := engine.offered(i.product_id))
    ]
    text = "\n".join([body, *titles, about.unsubscribe_url or ""]).strip() + "\n"
    html = f'<p>{len(titles)}</p><a href="{about.unsubscribe_url or ""}">Unsubscribe</a>'
    return Message(one_line(subject), text, html, PLAIN.from_string(texts.sms).render(**words))
