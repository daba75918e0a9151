"""Flash messages: the outcome of a submitted form, shown on the page that follows."""

from dataclasses import dataclass
from uuid import UUID

from flask import request, url_for
from sqlalchemy import Connection

from allocation.entrypoints.api.pages import reasons
from allocation.views import Json, progress

FORMS = {
    "allocation.create_batch": "pages.new_batch",
    "allocation.change_batch_quantity": "pages.batch",
}
"""By command: the page with its form, which the query parameters fill in."""


@dataclass(frozen=True, slots=True)
class FlashMessage:
    """How a command stands that was accepted at `accepted_at`.

    `status` is pending, succeeded, rejected or failed. `again` is the address of the filled-in form
    of a rejected command, else empty.
    """

    status: str
    text: str
    accepted_at: str
    again: str


def of_request(connection: Connection) -> FlashMessage | None:
    """What came of the command that the request's parameter `command` names, if it names one."""
    try:
        command_id = UUID(request.args.get("command", ""))
    except ValueError:
        return None
    known = progress.command(connection, command_id)
    if known is None:
        return None
    again = ""
    if known["status"] == "rejected" and known["command"] in FORMS:
        again = url_for(FORMS[known["command"]], **progress.body(connection, command_id))
    return FlashMessage(known["status"], _text(known), known["accepted_at"], again)


def _text(known: Json) -> str:
    if known["status"] == "pending":
        return "Accepted. The command waits for a worker to decide it."
    outcome = known["outcome"]
    if known["status"] == "succeeded":
        what = {
            "created": "The batch {batchref} was added.",
            "changed": "The batch {batchref} now has {qty} pieces.",
            "unchanged": "The batch {batchref} already had {qty} pieces.",
        }
        return what.get(outcome["status"], "Done.").format(**outcome)
    if known["status"] == "rejected":
        return reasons.refusal(outcome["reason"], outcome)
    return "Every attempt failed. The command is among the dead letters, see Operations."
