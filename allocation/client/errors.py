"""What can go wrong for a caller. A refusal by a rule is no error: it is an outcome."""

from collections.abc import Mapping


class ClientError(Exception):
    """Every error of this client, and an answer that no Allocation gives."""


class Invalid(ClientError):
    """The command breaks the contract, and was not taken: `fields` says of each field how."""

    def __init__(self, detail: str, fields: Mapping[str, str]) -> None:
        told = "; ".join(f"{field} {problem}" for field, problem in fields.items())
        super().__init__(f"{detail} ({told})" if told else detail)
        self.fields = dict(fields)


class Reused(ClientError):
    """The idempotency key came before with another command; this one was not taken."""


class Unauthorized(ClientError):
    """The key, or the broker's user, is not good for this; it was not taken."""


class Unreachable(ClientError):
    """Nobody said that it was taken, though it may have been.

    Send the same again with `idempotency_key`: it takes effect once. None where nothing was sent.
    """

    def __init__(self, why: str, idempotency_key: str | None = None) -> None:
        remedy = f"; send it again with idempotency_key={idempotency_key!r}: it takes effect once"
        super().__init__(why + (remedy if idempotency_key else ""))
        self.idempotency_key = idempotency_key
