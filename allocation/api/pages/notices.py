"""What came of a form that was sent: said on the page that follows."""

from dataclasses import dataclass
from uuid import UUID

from flask import request
from sqlalchemy import Connection

from allocation.api.problems import REFUSALS
from allocation.views import Json, progress


@dataclass(frozen=True, slots=True)
class Notice:
    """`status` is that of the command: pending, succeeded, rejected or failed."""

    status: str
    text: str


def of_request(connection: Connection) -> Notice | None:
    """What came of the command that the request's parameter `command` names, if it names one."""
    try:
        command_id = UUID(request.args.get("command", ""))
    except ValueError:
        return None
    told = progress.command(connection, command_id)
    return Notice(told["status"], _text(told)) if told else None


def _text(told: Json) -> str:
    if told["status"] == "pending":
        return "Accepted. It is waiting to be decided."
    outcome = told["outcome"]
    if told["status"] == "succeeded":
        what = {
            "created": "The batch {batchref} is on the books.",
            "changed": "The batch {batchref} now has {qty} pieces.",
            "unchanged": "The batch {batchref} had {qty} pieces already.",
        }
        return what.get(outcome["status"], "Done.").format(**outcome)
    if told["status"] == "rejected":
        return REFUSALS.get(outcome["reason"], outcome["reason"])
    return "Nobody could decide it. It is among the dead letters, see Operations."
