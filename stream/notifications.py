"""Notifications: webhooks (signed), Slack and Teams payloads, e-mail; retried with back-off, then given up and said."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import smtplib
from email.message import EmailMessage
from typing import Any

import aiohttp
import orjson

from models.errors import DataError
from models.registry import Artifacts
from stream.clock import elapsed, iso
from stream.events import AlertRaised, ChannelSet, Event
from stream.measures import seconds_of

KINDS = ("webhook", "slack", "teams", "email")
TIMEOUT = 5.0
ATTEMPTS = 6
FIRST_WAIT = 0.5
MOST_WAIT = 60.0


def read_channel(name: str, data: dict[str, Any]) -> tuple[ChannelSet, dict[str, str]]:
    """A channel and its secrets, apart; DataError says what is wrong."""
    kind = data.get("kind")
    if kind not in KINDS:
        raise DataError("wrong_channel", f"kind is one of {', '.join(KINDS)}")
    if kind == "email":
        to = data.get("to")
        if not data.get("host") or not isinstance(to, list) or not to or not data.get("from"):
            raise DataError("wrong_channel", "e-mail wants host, from and a list to")
        options: dict[str, Any] = {"host": str(data["host"]), "port": int(data.get("port", 25)), "from": str(data["from"]), "to": [str(t) for t in to], "user": str(data.get("user", "")), "tls": bool(data.get("tls", False))}
    else:
        url = str(data.get("url", ""))
        if not url.startswith(("http://", "https://")):
            raise DataError("wrong_channel", f"{kind} wants an http or https url")
        options = {"url": url}
    if data.get("digest"):
        seconds_of(data["digest"])
        options["digest"] = str(data["digest"])
    return ChannelSet(name, kind, options), {k: str(data[k]) for k in ("secret", "password") if data.get(k)}


def message_of(event: Event) -> dict[str, Any]:
    """An alert event for programs."""
    return {"event_id": event.event_id, "type": event.type, "occurred_at": iso(event.occurred_at), "deployment": event.deployment, **event.payload}


def sentence(event: Event) -> str:
    """An alert event for people."""
    fact = event.fact
    if isinstance(fact, AlertRaised):
        test = "TEST: " if fact.test else ""
        return f"{test}[{fact.severity}] {event.deployment}: {fact.measure} is {fact.value:.4g}, beyond {fact.bound:.4g} ({fact.rule})"
    payload = event.payload
    return f"{event.deployment}: {payload.get('measure')} is back at {payload.get('value'):.4g} ({payload.get('rule')})"


class Undelivered(Exception):  # noqa: N818 - a state
    """A channel did not take a message; the text is the reason."""


def digest_due(channel: ChannelSet, waiting: list[int], told_at: int, now: int) -> bool:
    """Whether a digest's span has passed since the channel was told last, or else since the first alert (microseconds)."""
    return elapsed(max(told_at, min(waiting)), now) >= seconds_of(channel.options["digest"]) * 1_000_000


async def deliver(channel: ChannelSet, secrets: dict[str, str], events: list[Event]) -> None:
    """One attempt at one message; Undelivered with its reason. Redirects are not followed: they could lead anywhere."""
    if channel.kind == "email":
        await asyncio.to_thread(mail, channel.options, secrets, events)
        return
    text = "\n".join(map(sentence, events))
    one = message_of(events[0]) if not channel.options.get("digest") else {"type": "digest", "alerts": [message_of(event) for event in events]}
    body = {"slack": {"text": text}, "teams": {"type": "message", "text": text, "summary": text.splitlines()[0]}}.get(channel.kind) or one
    data = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
    headers = {"Content-Type": "application/json", "Idempotency-Key": f"{key_of(events)}:{channel.name}"}
    if secrets.get("secret"):
        headers["X-Champion-Signature"] = "sha256=" + hmac.new(secrets["secret"].encode(), data, hashlib.sha256).hexdigest()
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT)) as session,
            session.post(channel.options["url"], data=data, headers=headers, allow_redirects=False) as answer,
        ):
            if not 200 <= answer.status < 300:  # noqa: PLR2004
                raise Undelivered(f"HTTP {answer.status}" + (": redirects are not followed" if 300 <= answer.status < 400 else ""))  # noqa: PLR2004
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise Undelivered(f"{type(error).__name__}: {error}"[:300]) from error


def key_of(events: list[Event]) -> str:
    """The identity of a message: its event, or all events of a digest."""
    return events[0].event_id if len(events) == 1 else hashlib.sha256(",".join(event.event_id for event in events).encode()).hexdigest()[:32]


def mail(options: dict[str, Any], secrets: dict[str, str], events: list[Event]) -> None:
    """One attempt by SMTP."""
    letter = EmailMessage()
    subject = sentence(events[0])[:200] if len(events) == 1 else f"{len(events)} alerts, the first: {sentence(events[0])}"[:200]
    letter["Subject"], letter["From"], letter["To"] = subject, options["from"], ", ".join(options["to"])
    letter["Message-ID"] = f"<{key_of(events)}@champion>"
    letter.set_content("\n\n".join(sentence(event) + "\n\n" + orjson.dumps(message_of(event), option=orjson.OPT_INDENT_2).decode() for event in events))
    try:
        with smtplib.SMTP(options["host"], options["port"], timeout=TIMEOUT) as server:
            if options.get("tls"):
                server.starttls()
            if options.get("user"):
                server.login(options["user"], secrets.get("password", ""))
            server.send_message(letter)
    except (smtplib.SMTPException, OSError) as error:
        raise Undelivered(f"{type(error).__name__}: {error}"[:300]) from error


def secrets_of(artifacts: Artifacts, name: str) -> dict[str, str]:
    """A channel's secrets."""
    try:
        return dict(orjson.loads(artifacts.read(f"secrets/{name}.json")))
    except KeyError:
        return {}
