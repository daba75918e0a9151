"""Flash messages: the outcome of a submitted form, shown on the page that follows."""

from dataclasses import dataclass
from uuid import UUID

from flask import request, url_for
from sqlalchemy import Connection

from allocation.entrypoints.api.http.preconditions import VERSION
from allocation.entrypoints.api.pages import actions, reasons
from allocation.views import Json, progress

FORMS = {"allocation.create_batch": "pages.new_batch"} | {
    name: action.endpoint for name, action in actions.BY_COMMAND.items()
}
"""By command: the page with its form, which the query parameters fill in."""

DONE = {
    "created": "The batch {batchref} was added.",
    "changed": "The change was made.",
    "unchanged": "Nothing had to be changed.",
    "received": "The pieces were added: the batch {batchref} now has {qty}.",
    "written off": "The pieces were written off: the batch {batchref} now has {left}.",
    "blocked": "The batch {batchref} is blocked.",
    "unblocked": "The batch {batchref} is no longer blocked.",
    "cancelled": "The order was cancelled.",
}
"""What came of a command that succeeded, by the status of its outcome."""
CHANGED = {
    "allocation.change_batch_quantity": "The batch {batchref} now has {qty} pieces.",
    "allocation.change_line_quantity": "The order now wants {qty} pieces.",
    "allocation.change_priority": "The line now has priority {priority}.",
}
"""The same by its command, where that says more."""
UNCHANGED = {
    "allocation.change_batch_quantity": "The batch {batchref} already had {qty} pieces.",
}


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
        body = progress.body(connection, command_id)
        body.pop(VERSION, None)
        again = url_for(FORMS[known["command"]], **body)
    return FlashMessage(known["status"], _text(known), known["accepted_at"], again)


def _text(known: Json) -> str:
    if known["status"] == "pending":
        return "Accepted. The command waits for a worker to decide it."
    outcome = known["outcome"]
    if known["status"] == "succeeded":
        said = UNCHANGED if outcome["status"] == "unchanged" else CHANGED
        text = said.get(known["command"]) or DONE.get(outcome["status"], "Done.")
        return text.format(**outcome)
    if known["status"] == "rejected":
        return reasons.refusal(outcome["reason"], outcome)
    return "Every attempt failed. The command is among the dead letters, see Operations."
