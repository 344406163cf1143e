"""Channels: e-mail over a real SMTP server, JSON to a real HTTP server, and what fits a text or a push."""

import hashlib
import hmac
import json
import smtplib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from email import message_from_bytes
from email.policy import default
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from hypothesis import given
from hypothesis import strategies as st
from live import NOW
from pydantic import SecretStr
from running import PUBLIC_URL, SECRET, SHOP_URL, free_port

from lifecycle.channels import (
    CARRIERS,
    Away,
    Dead,
    Failed,
    Parcel,
    Smtp,
    Webhook,
    domain_of,
    mail,
    posted,
    refusal,
)
from lifecycle.lengths import SMS_END, cut, fit_sms, is_gsm, sms_length, sms_parts
from serving.settings import Settings, SettingsError

LETTER = Parcel(
    message_id="m1", program="hello", version="v1", kind="marketing", channel="email", to="anna@mail.example",
    at=NOW, handed_at=NOW, day="2026-03-05", domain="shop.example", sender="Corner <hello@shop.example>",
    subject="Grüße", text="Hello\n", html="<p>Hello</p>", unsubscribe_url="https://go.example/u/" + "x" * 300,
)  # fmt: skip


# --- smtp -------------------------------------------------------------------------------------------------


class Mailbox:
    """An SMTP server's answers, and what it took."""

    def __init__(self) -> None:
        self.rcpt: list[str] = []
        self.data: list[str] = []
        self.took: list[bytes] = []
        self.mail: list[str] = []
        self.server: Any = None

    async def handle_MAIL(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        self.server, envelope.mail_from = server, address
        return self.mail.pop(0) if self.mail else "250 OK"

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        said = self.rcpt.pop(0) if self.rcpt else "250 OK"
        if said.startswith("250"):
            envelope.rcpt_tos.append(address)
        return said

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        said = self.data.pop(0) if self.data else "250 OK"
        if said.startswith("250"):
            self.took.append(envelope.content)
        return said


@pytest.fixture(scope="module")
def smtp() -> Iterator[tuple[str, Mailbox]]:
    box, port = Mailbox(), free_port()
    controller = Controller(box, hostname="127.0.0.1", port=port)
    controller.start()
    yield f"smtp://127.0.0.1:{port}", box
    controller.stop()


@pytest.fixture
def sends(smtp: tuple[str, Mailbox]) -> Iterator[Smtp]:
    smtp[1].took.clear()
    carrier = Smtp(smtp[0])
    yield carrier
    carrier.close()


def test_a_server_takes_mail_after_mail(smtp: tuple[str, Mailbox], sends: Smtp) -> None:
    for n in range(3):
        sends.send(replace(LETTER, message_id=f"m{n}"))
    assert len(smtp[1].took) == 3
    found = message_from_bytes(smtp[1].took[0], policy=default)
    assert (found["Message-ID"], found["Subject"]) == ("<m0@shop.example>", "Grüße")
    assert found["Feedback-ID"] == "hello:v1:marketing:shop.example"
    assert f"\r\nList-Unsubscribe: <{LETTER.unsubscribe_url}>\r\n".encode() in smtp[1].took[0]


@pytest.mark.parametrize(
    ("step", "said", "kind", "bounced"),
    [
        ("rcpt", "451 4.7.1 greylisted, anna@mail.example", Failed, False),
        ("rcpt", "550 5.1.1 no such user anna@mail.example", Dead, True),
        ("rcpt", "550 5.7.1 not from you", Dead, False),
        ("rcpt", "552 5.2.2 full", Dead, False),
        ("data", "452 4.2.2 later", Failed, False),
        ("data", "554 5.6.0 spam", Dead, False),
    ],
)
def test_what_a_server_refuses(
    smtp: tuple[str, Mailbox], sends: Smtp, step: str, said: str, kind: type[Exception], bounced: bool
) -> None:
    getattr(smtp[1], step).append(said)
    with pytest.raises(kind) as refused:
        sends.send(LETTER)
    assert said[:3] in str(refused.value) and "anna" not in str(refused.value)
    assert getattr(refused.value, "bounced", False) == bounced and not isinstance(refused.value, Away)
    sends.send(LETTER)
    assert len(smtp[1].took) == 1


def test_a_server_that_hung_up_is_called_again(smtp: tuple[str, Mailbox], sends: Smtp) -> None:
    """As servers do after so many messages, or so long: with a word, or without one."""
    box = smtp[1]
    sends.send(replace(LETTER, message_id="m0"))
    box.server.loop.call_soon_threadsafe(box.server.transport.close)
    sends.send(replace(LETTER, message_id="m1"))
    box.mail.append("421 4.3.2 closing")
    sends.send(replace(LETTER, message_id="m2"))
    names = [message_from_bytes(one)["Message-ID"] for one in box.took]
    assert names == [f"<m{n}@shop.example>" for n in range(3)]
    sends.close()
    box.mail += ["421 4.3.2 closing"]
    with pytest.raises(Failed):
        sends.send(LETTER)  # a new connection is not called again: it would be for ever


@pytest.mark.parametrize(
    ("said", "is_about_the_address"),
    [
        ("5.1.1 The email account that you tried to reach does not exist.\n5.1.1 Please try again", True),
        (
            "5.1.1 <anna@mail.example>: Recipient address rejected: User unknown in virtual mailbox table",
            True,
        ),
        ("5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address lookup", True),
        ("#5.1.0 Address rejected.", True),
        ("sorry, no mailbox here by that name. (#5.1.1 - chkuser)", True),
        ("5.1.2 The domain mail.example does not exist", True),
        ("5.1.6 Recipient no longer on server", True),
        ("5.1.7 <hello@shop.example>: Sender address rejected: undeliverable", False),
        ("5.1.8 <hello@shop.example>: Sender address rejected: Domain not found", False),
        ("5.7.1 Service unavailable; client host [5.1.1.2] blocked", False),
        ("5.7.1 Blocked, see 65.1.1 and 5.1.15", False),
        ("5.4.1 Recipient address rejected: Access denied", False),
        ("5.2.2 mailbox full", False),
        ("No such user here", False),
    ],
)
def test_which_refusals_are_about_the_address(said: str, is_about_the_address: bool) -> None:
    error = refusal(smtplib.SMTPRecipientsRefused({"anna@mail.example": (550, said.encode())}))
    assert isinstance(error, Dead) and error.bounced == is_about_the_address and "anna" not in str(error)


def test_a_server_that_is_not_there() -> None:
    with pytest.raises(Away, match="ConnectionRefusedError"):
        Smtp(f"smtp://127.0.0.1:{free_port()}").send(LETTER)


@pytest.mark.parametrize("to", ["a@b\r\nBcc: c@d", "a", "a@b, c@d", "<a@b>", "a b@c", ""])
def test_what_is_no_address_goes_nowhere(to: str) -> None:
    with pytest.raises(Dead):
        mail(replace(LETTER, to=to))


def test_a_line_break_in_a_subject_makes_no_header() -> None:
    with pytest.raises(Dead):
        mail(replace(LETTER, subject="a\r\nBcc: x@y.example"))


# --- webhook ----------------------------------------------------------------------------------------------


class Hook(HTTPServer):
    """Notes requests, and answers with the statuses that it is told to."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.statuses: list[int] = []
        self.got: list[tuple[dict[str, str], bytes]] = []


class Answer(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server: Any = self.server
        body = self.rfile.read(int(self.headers["Content-Length"]))
        server.got.append((dict(self.headers), body))
        self.send_response(server.statuses.pop(0) if server.statuses else 202)
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        return None


@contextmanager
def hook() -> Iterator[Hook]:
    with Hook() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def test_a_webhook_gets_signed_json() -> None:
    with hook() as server:
        carrier = Webhook(f"http://127.0.0.1:{server.server_port}/in", "s" * 16)
        carrier.send(replace(LETTER, channel="push", push="word " * 60))
        for status, kind in ((503, Failed), (429, Failed), (302, Failed), (400, Dead), (410, Dead)):
            server.statuses.append(status)
            with pytest.raises(kind, match=str(status)):
                carrier.send(LETTER)
    headers, body = server.got[0]
    stamp = headers["OSCLMS-Timestamp"]
    signed = hmac.new(b"s" * 16, f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
    assert headers["OSCLMS-Signature"] == f"v1={signed}" and int(stamp) == NOW.timestamp()
    assert headers["Idempotency-Key"] == "m1"
    told = json.loads(body)
    assert told["body"].endswith("word…") and len(told["body"]) <= 178 and told["to"] == LETTER.to
    assert {headers["Idempotency-Key"] for headers, _ in server.got} == {"m1"} and len(server.got) == 6
    with pytest.raises(Away):
        carrier.send(LETTER)


# --- what fits --------------------------------------------------------------------------------------------


def test_an_sms_is_as_long_as_its_alphabet_lets_it() -> None:
    for text, parts in (
        ("a" * 160, 1),
        ("a" * 161, 2),
        ("a" * 306, 2),
        ("a" * 307, 3),
        ("€" * 80, 1),
        ("€" * 81, 2),
    ):
        assert sms_parts(text) == parts, (len(text), parts)
    for text, parts in (
        ("ş" * 70, 1),
        ("ş" * 71, 2),
        ("ş" * 134, 2),
        ("ş" * 135, 3),
        ("🎁" * 35, 1),
        ("🎁" * 36, 2),
    ):
        assert sms_parts(text) == parts, (len(text), parts)
    assert fit_sms("Dear " * 20, 1) == " ".join(["Dear"] * 20)
    assert fit_sms("Dear " * 40, 1) == " ".join(["Dear"] * 31) + "..." and is_gsm(fit_sms("Dear " * 40, 1))
    assert fit_sms("Değer " * 40, 1) == " ".join(["Değer"] * 11) + "…"
    assert sms_length("a" * 300) == 300 and fit_sms("a" * 300, 1) == "a" * 157 + "..."


def test_the_end_of_an_sms_is_never_cut() -> None:
    assert fit_sms("Hello", end="Reply STOP to end") == "Hello Reply STOP to end"
    long = fit_sms("Dear " * 90, end="Reply STOP to end")
    assert long.endswith("Dear... Reply STOP to end") and sms_parts(long) == 2 and sms_length(long) > 295
    assert fit_sms("", end="Reply STOP to end") == "Reply STOP to end"


@given(st.text(max_size=400), st.integers(1, 3), st.sampled_from(["", "STOP", "Répondez STOP"]) | st.text())
def test_a_text_that_was_cut_fits(text: str, parts: int, end: str) -> None:
    fitted, end = fit_sms(text, parts, end=end), " ".join(end.split())
    assert sms_parts(fitted) <= parts
    assert sms_length(end) > SMS_END or fitted.endswith(end)


@pytest.mark.parametrize(
    ("text", "end"), [("Hi", "я" * 133), ("word " * 60, "a" * 303), ("hi 🎉 " * 60, "a" * 133)]
)
def test_an_end_that_leaves_no_room_stands_alone(text: str, end: str) -> None:
    assert fit_sms(text, end=end) == end
    assert len(cut(text, 50)) <= 50


def test_a_push_is_cut_at_a_word() -> None:
    letter = replace(LETTER, channel="push", subject="Something new for you " * 4, push="word " * 60)
    told = posted(letter)
    assert told["title"] == "Something new for you Something new for you…" and len(told["title"]) <= 50
    assert "html" not in told and cut("Hello there", 50) == "Hello there"
    assert set(posted(replace(LETTER, channel="sms"))) == {
        "message_id", "program", "kind", "channel", "to", "text", "parts", "unsubscribe_url",
    }  # fmt: skip


# --- settings ---------------------------------------------------------------------------------------------

WHOLE = {
    "OSCLMS_SECRET": SECRET, "OSCLMS_PUBLIC_URL": PUBLIC_URL, "OSCLMS_SHOP_URL": SHOP_URL,
    "OSCLMS_MAIL_FROM": "Corner <hello@shop.example>", "OSCLMS_SMTP_URL": "smtps://me:hush@mail.example",
    "OSCLMS_MAIL_ADDRESS": "Corner Shop, 1 Market Street,  Springfield",
    "OSCLMS_WEBHOOK_URL": "https://texts.example/in", "OSCLMS_WEBHOOK_SECRET": "s" * 16,
}  # fmt: skip


def test_settings_name_the_channels(tmp_path: Path) -> None:
    whole = Settings.read(WHOLE)
    assert whole.mail_address == "Corner Shop, 1 Market Street, Springfield"
    assert "hush" not in repr(whole) and domain_of(whole) == "shop.example"
    assert [type(of).__name__ for of in CARRIERS["smtp"](whole, tmp_path).values()] == [
        "Smtp", "Webhook", "Webhook",
    ]  # fmt: skip
    mail_alone = {n: t for n, t in WHOLE.items() if "WEBHOOK" not in n}
    assert set(CARRIERS["smtp"](Settings.read(mail_alone), tmp_path)) == {"email"}
    assert set(CARRIERS["files"](Settings.read({}), tmp_path)) == {"email", "sms", "push"}
    for name, lacking in (
        ("smtp", "MAIL_FROM"),
        ("smtp", "SMTP_URL"),
        ("smtp", "MAIL_ADDRESS"),
        ("webhook", "WEBHOOK_SECRET"),
    ):
        with pytest.raises(SettingsError, match=f"OSCLMS_{lacking}"):
            CARRIERS[name](Settings.read({n: t for n, t in WHOLE.items() if lacking not in n}), tmp_path)
    with pytest.raises(SettingsError, match="without a way to unsubscribe"):
        CARRIERS["smtp"](Settings(mail_from="a@b.example", smtp_url=SecretStr("smtp://x")), tmp_path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("OSCLMS_SMTP_URL", "mail.example"),
        ("OSCLMS_SMTP_URL", "http://me:hush@mail.example"),
        ("OSCLMS_MAIL_FROM", "Corner"),
        ("OSCLMS_MAIL_ADDRESS", "1 Market Street\nSpringfield"),
        ("OSCLMS_MAIL_ADDRESS", "x" * 201),
        ("OSCLMS_MAIL_FROM", "a@b.example\r\nBcc: x@y"),
        ("OSCLMS_WEBHOOK_URL", "ftp://x"),
        ("OSCLMS_WEBHOOK_SECRET", "hush"),
    ],
)
def test_a_setting_that_cannot_be_is_told_without_what_it_says(name: str, text: str) -> None:
    with pytest.raises(SettingsError, match=name) as refused:
        Settings.read({name: text})
    assert "hush" not in str(refused.value)
