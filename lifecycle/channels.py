"""Channels: how a message leaves. Each takes a parcel and returns, or says why not: for now, or for good.

`files` writes what would be sent, `smtp` hands e-mail to a server, `webhook` posts signed JSON to whoever sends texts
and pushes (and e-mail, where it is asked to).
"""

import hashlib
import hmac
import http.client
import json
import os
import re
import smtplib
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import EmailPolicy
from email.utils import format_datetime, parseaddr
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from lifecycle.lengths import cut, fit_sms, sms_parts
from serving.door import is_loopback
from serving.outgoing import DEAD, OUTBOX, stem_of
from serving.settings import Settings, SettingsError

SECONDS = 15.0  # that a server may take for one step
NOBODY = "nobody.invalid"  # the domain where none is known: it can be no one's
PUSH_TITLE, PUSH_BODY = 50, 178


class Failed(Exception):
    """It did not go now; it may go later. The message holds no address."""


class Away(Failed):
    """Nothing goes on this channel now."""


class Dead(Exception):
    """It will never go. `bounced`: because there is no such address."""

    def __init__(self, why: str, *, bounced: bool = False) -> None:
        super().__init__(why)
        self.bounced = bounced


@dataclass(frozen=True)
class Parcel:
    """A message as a channel takes it. program, version: of which program; at: its date; handed_at: the clock's; day:
    the folder of files; domain: of whom the message's own names are, its id among them."""

    message_id: str
    program: str
    version: str
    kind: str
    channel: str
    to: str
    at: datetime
    handed_at: datetime
    day: str
    domain: str = NOBODY
    sender: str = ""
    subject: str = ""
    text: str = ""
    html: str = ""
    sms: str = ""
    push: str = ""
    unsubscribe_url: str | None = None


class Carrier(Protocol):
    def send(self, parcel: Parcel) -> None:
        """Return once the parcel is in other hands. Raises Failed, Away, Dead."""

    def take_back(self, parcel: Parcel) -> None:
        """Keep nothing of a parcel that was sent, as far as it is here."""

    def close(self) -> None: ...


# --- what is sent -----------------------------------------------------------------------------------------


class Whole(EmailPolicy):
    """A link in a header is one line: mailboxes read no other, and the library would encode it to fold it."""

    def fold(self, name: str, value: Any) -> str:
        line: str = (
            f"{name}: {value}{self.linesep}" if name == "List-Unsubscribe" else super().fold(name, value)
        )
        return line

    def fold_binary(self, name: str, value: Any) -> bytes:
        return self.fold(name, value).encode("ascii", "surrogateescape")


WIRE = Whole(linesep="\r\n")


def mail(parcel: Parcel) -> EmailMessage:
    """An e-mail by RFC 5322. Nothing in its headers but To says whom it is for. Raises Dead for what is no address."""
    made = EmailMessage(policy=WIRE)
    try:
        made["From"] = parcel.sender or f"noreply@{parcel.domain}"
        made["To"] = Address(addr_spec=parcel.to.strip())
        made["Subject"] = parcel.subject
    except Exception as error:  # the parser of addresses raises what it likes, and tells the address
        raise Dead(f"the headers cannot be made: {type(error).__name__}") from None
    made["Date"] = format_datetime(parcel.at)
    made["Message-ID"] = f"<{parcel.message_id}@{parcel.domain}>"
    for name, text in about(parcel).items():
        made[name] = text
    made.set_content(parcel.text)
    if parcel.html:
        made.add_alternative(parcel.html, subtype="html")
        made.set_boundary(hashlib.sha256(parcel.message_id.encode()).hexdigest()[:32])
    return made


def about(parcel: Parcel) -> dict[str, str]:
    """Headers for mailboxes: which list it is of, and how to leave it in one click (RFC 8058)."""
    found = {
        "List-Id": f"<{parcel.program}.{parcel.domain}>",
        "Feedback-ID": f"{parcel.program}:{parcel.version}:{parcel.kind}:{parcel.domain}",
    }
    if parcel.unsubscribe_url:
        found |= {
            "List-Unsubscribe": f"<{parcel.unsubscribe_url}>",
            "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
        }
    if parcel.kind == "transactional":
        found["Auto-Submitted"] = "auto-generated"
    return found


def posted(parcel: Parcel) -> dict[str, Any]:
    """A message as JSON, cut to what its channel takes."""
    said = {name: getattr(parcel, name) for name in ("message_id", "program", "kind", "channel", "to")}
    return said | BODIES.get(parcel.channel, of_mail)(parcel) | {"unsubscribe_url": parcel.unsubscribe_url}


def of_mail(parcel: Parcel) -> dict[str, Any]:
    return {"subject": parcel.subject, "text": parcel.text, "html": parcel.html}


def of_sms(parcel: Parcel) -> dict[str, Any]:
    text = fit_sms(parcel.sms)
    return {"text": text, "parts": sms_parts(text)}


def of_push(parcel: Parcel) -> dict[str, Any]:
    return {
        "title": cut(parcel.subject, PUSH_TITLE),
        "body": cut(parcel.push, PUSH_BODY),
    }


BODIES: Mapping[str, Callable[[Parcel], dict[str, Any]]] = {"sms": of_sms, "push": of_push}


# --- files ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Files:
    """Every message as a file: <home>/outbox/<day>/<program>/<message_id>.eml, or .json. Written whole or not at all; a
    message that is sent again is the same file."""

    home: Path

    def send(self, parcel: Parcel) -> None:
        e_mail = parcel.channel == "email"
        body = mail(parcel).as_bytes() if e_mail else json.dumps(posted(parcel), ensure_ascii=False).encode()
        try:
            write_whole(self.path(parcel), body)
        except OSError as error:
            raise Away(f"the file was not written: {error.strerror}") from error

    def path(self, parcel: Parcel) -> Path:
        name = f"{stem_of(parcel.message_id)}.{'eml' if parcel.channel == 'email' else 'json'}"
        return self.home / OUTBOX / parcel.day / parcel.program / name

    def take_back(self, parcel: Parcel) -> None:
        self.path(parcel).unlink(missing_ok=True)

    def close(self) -> None:
        return None


def write_whole(path: Path, body: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    with fresh.open("wb") as file:
        file.write(body)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def write_off(home: Path, line: Mapping[str, Any]) -> None:
    """Put what will never go on the list of the dead: which message, and why; neither address nor body."""
    path = home / OUTBOX / DEAD
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(json.dumps(line).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


# --- smtp -------------------------------------------------------------------------------------------------

# RFC 3463 and 7505: about the address; whatever else is refused may be about us. Part of no number, as of an IP address
NO_SUCH = re.compile(r"(?<![\w.])5\.1\.(?:[0-36]|10)(?!\w|\.\d)")


@dataclass
class Smtp:
    """Hands e-mail to a server, over one connection as long as it holds. Where the worker dies between the server's
    yes and the record of it, the message goes again, with the same Message-ID."""

    url: str
    _server: smtplib.SMTP | None = field(default=None, repr=False)

    def send(self, parcel: Parcel) -> None:
        made, is_kept = mail(parcel), self._server is not None
        try:
            self.server().send_message(made)
        except Exception as error:
            self.close()
            if is_kept and is_over(error):  # servers end a connection after so many messages, or so long
                self.send(parcel)
                return
            raise refusal(error) from None

    def take_back(self, parcel: Parcel) -> None:
        return None

    def server(self) -> smtplib.SMTP:
        if self._server is None:
            self._server = connected(self.url)
        return self._server

    def close(self) -> None:
        server, self._server = self._server, None
        if server:
            try:
                server.quit()
            except (smtplib.SMTPException, OSError):
                server.close()


def connected(url: str) -> smtplib.SMTP:
    """smtps:// is TLS from the first byte; smtp:// goes over to it where the server can. A password is told over TLS
    alone, but on this machine."""
    there, context = urlsplit(url), ssl.create_default_context()
    host, is_tls = there.hostname or "", there.scheme == "smtps"
    server: smtplib.SMTP
    if is_tls:
        server = smtplib.SMTP_SSL(host, there.port or 465, timeout=SECONDS, context=context)
    else:
        server = smtplib.SMTP(host, there.port or 25, timeout=SECONDS)
    server.ehlo()
    if not is_tls and server.has_extn("starttls"):
        server.starttls(context=context)
        server.ehlo()
        is_tls = True
    if there.username:
        if not is_tls and not is_loopback(host):
            raise smtplib.SMTPNotSupportedError
        server.login(unquote(there.username), unquote(there.password or ""))
    return server


def is_over(error: Exception) -> bool:
    """Whether a server has no more to say over this connection, whatever it says over another."""
    return isinstance(error, smtplib.SMTPServerDisconnected) or getattr(error, "smtp_code", None) == 421


def refusal(error: Exception) -> Exception:
    """What a server's answer means for a message; its words, which may hold an address, stay out."""
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        code, said = next(iter(error.recipients.values()))
        told = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
        return judged("RCPT", code, bounced=bool(NO_SUCH.search(told)))
    if isinstance(error, smtplib.SMTPDataError):
        return judged("DATA", error.smtp_code)
    if isinstance(error, smtplib.SMTPSenderRefused):
        return Failed(f"MAIL: {error.smtp_code}")  # about our own address: somebody will mend it
    if isinstance(error, smtplib.SMTPNotSupportedError):
        return Dead("the server lacks what this takes: TLS for a password, SMTPUTF8 for the address")
    if isinstance(error, smtplib.SMTPException | OSError):
        return Away(f"the server: {type(error).__name__}")
    return error


def judged(step: str, code: int, *, bounced: bool = False) -> Exception:
    return Dead(f"{step}: {code}", bounced=bounced) if code >= 500 else Failed(f"{step}: {code}")


# --- webhook ----------------------------------------------------------------------------------------------

LATER = (408, 425, 429)  # of the 4xx: ask again


@dataclass(frozen=True)
class Webhook:
    """Posts JSON with `OSCLMS-Timestamp` and `OSCLMS-Signature: v1=` HMAC-SHA256 of timestamp, a point and the body."""

    url: str
    secret: str

    def send(self, parcel: Parcel) -> None:
        body = json.dumps(posted(parcel), ensure_ascii=False).encode()
        stamp = str(int(parcel.handed_at.timestamp()))
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": parcel.message_id,
            "OSCLMS-Timestamp": stamp,
            "OSCLMS-Signature": f"v1={signature(self.secret, stamp, body)}",
        }
        try:
            status = post(self.url, body, headers)
        except (http.client.HTTPException, OSError) as error:
            raise Away(f"the webhook: {type(error).__name__}") from None
        if 200 <= status < 300:
            return
        if 400 <= status < 500 and status not in LATER:
            raise Dead(f"the webhook answered {status}")
        raise Failed(f"the webhook answered {status}")

    def take_back(self, parcel: Parcel) -> None:
        return None

    def close(self) -> None:
        return None


def signature(secret: str, stamp: str, body: bytes) -> str:
    return hmac.new(secret.encode(), stamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def post(url: str, body: bytes, headers: Mapping[str, str]) -> int:
    """The status of the answer. No redirect is followed: it could lead anywhere."""
    there = urlsplit(url)
    make = http.client.HTTPSConnection if there.scheme == "https" else http.client.HTTPConnection
    connection = make(there.hostname or "", there.port, timeout=SECONDS)
    try:
        connection.request("POST", there.path or "/", body, dict(headers))
        answer = connection.getresponse()
        answer.read(10_000)
        return answer.status
    finally:
        connection.close()


# --- which ------------------------------------------------------------------------------------------------

WRITTEN = ("email", "sms", "push")


def files(settings: Settings, home: Path) -> dict[str, Carrier]:
    return dict.fromkeys(WRITTEN, Files(home))


def smtp(settings: Settings, home: Path) -> dict[str, Carrier]:
    """E-mail by SMTP; what else there is by the webhook, where there is one, else it waits."""
    if settings.smtp_url is None or settings.mail_from is None:
        raise SettingsError("smtp needs OSCLMS_SMTP_URL, as smtp://host:25, and OSCLMS_MAIL_FROM")
    told = webhook(settings, home) if settings.webhook_url else {}
    must_link(settings)
    if settings.mail_address is None:
        raise SettingsError(
            "OSCLMS_MAIL_ADDRESS is not set: marketing mails must tell the sender's postal address, as "
            "Corner Shop, 1 Market Street, Springfield"
        )
    return {**told, "email": Smtp(settings.smtp_url.get_secret_value())}


def webhook(settings: Settings, home: Path) -> dict[str, Carrier]:
    if settings.webhook_url is None or settings.webhook_secret is None:
        raise SettingsError("webhook needs OSCLMS_WEBHOOK_URL and OSCLMS_WEBHOOK_SECRET")
    must_link(settings)
    return dict.fromkeys(WRITTEN, Webhook(settings.webhook_url, settings.webhook_secret.get_secret_value()))


def must_link(settings: Settings) -> None:
    """Nothing leaves that its reader could not end. Raises SettingsError."""
    if settings.public_url is None:
        raise SettingsError(
            "OSCLMS_PUBLIC_URL is not set: messages would go out without a way to unsubscribe"
        )


CARRIERS: Mapping[str, Callable[[Settings, Path], dict[str, Carrier]]] = {
    "files": files,
    "smtp": smtp,
    "webhook": webhook,
}


def domain_of(settings: Settings) -> str:
    """Of whom messages are: the domain of the address they come from, else the service's."""
    _, own = parseaddr(settings.mail_from or "")
    return own.partition("@")[2] or urlsplit(settings.public_url or "").hostname or NOBODY
