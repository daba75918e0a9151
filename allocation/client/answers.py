"""What the API answers, as outcomes and errors."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from typing import Any

from allocation.client.errors import ClientError, Invalid, Reused, Unauthorized
from allocation.client.messages import Outcome, Status

_FAILED = "/problems/command-failed"
_REUSED = "/problems/idempotency-key-reused"
_PROBLEM = {"type", "title", "status", "detail", "errors"}
"""Members of every problem; the others are facts."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Message
    body: Mapping[str, Any]

    @property
    def detail(self) -> str:
        return str(self.body.get("detail", "no reason given"))

    @property
    def retry_after(self) -> float:
        asked = self.headers.get("Retry-After", "")
        return float(asked) if asked.isascii() and asked.isdigit() else 1.0

    @property
    def has_waited(self) -> bool:
        """Whether the server waited for as long as it was asked to."""
        return "wait=" in self.headers.get("Preference-Applied", "")

    @property
    def is_for_later(self) -> bool:
        """Whether the same request may be answered otherwise later."""
        return self.status == 429 or (self.status >= 500 and self.body.get("type") != _FAILED)


def members(text: bytes) -> Mapping[str, Any]:
    """The body's fields; none where it is no JSON object, as from a proxy."""
    try:
        body = json.loads(text)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def taken(answer: Answer) -> Outcome:
    """What the answer to a command says. Raises where it was not taken."""
    if answer.status in (401, 403):
        raise Unauthorized(f"{answer.detail} ({answer.status})")
    if answer.body.get("type") == _REUSED:
        raise Reused(answer.detail)
    if answer.status in (400, 413, 415, 422):
        errors = answer.body.get("errors", [])
        raise Invalid(answer.detail, {error["field"]: error["problem"] for error in errors})
    statuses: dict[int, Status] = {200: "succeeded", 201: "succeeded", 202: "pending"}
    statuses |= {409: "rejected", 412: "rejected", 500: "failed"}
    status, location = statuses.get(answer.status), answer.headers.get("Location")
    if status is None or not location:
        raise ClientError(f"this is not a response of Allocation: {answer.status}, {answer.detail}")
    facts, reason = dict(answer.body), None
    if status in ("rejected", "failed"):
        reason = facts["title"]
        facts = {name: facts[name] for name in facts.keys() - _PROBLEM}
    elif status == "pending":
        facts = {}
    return Outcome(location.rpartition("/")[2], status, facts, reason)


def standing(answer: Answer, command_id: str) -> Outcome:
    """What the answer to a question after a command says."""
    if answer.status in (401, 403):
        raise Unauthorized(f"{answer.detail} ({answer.status})")
    if answer.status == 404 and answer.body.get("status") == 404:
        return Outcome(command_id, "pending", {})
    if answer.status != 200 or "status" not in answer.body:
        raise ClientError(f"this is not a response of Allocation: {answer.status}, {answer.detail}")
    facts = dict(answer.body["outcome"] or {})
    facts.pop("field", None)
    return Outcome(answer.body["id"], answer.body["status"], facts, facts.pop("reason", None))
