"""Commands as Celery messages on RabbitMQ, each confirmed by the broker; no Celery is needed."""

from contextlib import suppress
from threading import Lock
from typing import Any, Self
from uuid import UUID, uuid4, uuid5

from amqp.exceptions import AccessRefused, ChannelError
from kombu import Connection, Producer

from allocation.client.broker import LOST, Broker
from allocation.client.commands import Commands
from allocation.client.errors import Unauthorized, Unreachable
from allocation.client.http import HttpClient
from allocation.client.messages import Outcome, plain
from allocation.client.patience import Patience
from allocation.messaging.celery_message import celery_message

_COMMANDS = "allocation.commands"
_CONFIRMED_WITHIN = 10.0  # seconds
_IDS = UUID("b7a0b1a4-6a0d-4f0e-9a55-0c3d4b6f1d27")


class AmqpClient(Commands):
    """Sends commands to RabbitMQ at `broker_url`. Threads may share it; one sends at a time.

    The command's id is the idempotency key if that is a UUID, else it follows from it. Outcomes
    are not told there: `http` asks for them when a command is sent with `wait`. What can't be
    reached is tried again for `patience` seconds.
    """

    def __init__(
        self, broker_url: str, http: HttpClient | None = None, *, patience: float = 30.0
    ) -> None:
        self._broker = Broker(broker_url)
        self._http = http
        self._patience = patience
        self._one_at_a_time = Lock()
        self._connection: Connection | None = None
        self._producer: Producer | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the next command opens another one."""
        with self._one_at_a_time:
            self._disconnect()

    def send(
        self,
        name: str,
        *,
        wait: float = 0.0,
        idempotency_key: UUID | str | None = None,
        **fields: Any,
    ) -> Outcome:
        """Send the command `name`: once a queue has it, its id, and the outcome if asked to wait.

        Fields are not looked at here: what breaks the contract is a rejected command. Raises
        Unauthorized and Unreachable; ValueError when there is nobody to ask for the outcome.
        """
        if wait and self._http is None:
            raise ValueError("pass an HttpClient: outcomes are not available over AMQP")
        command_id = _command_id(idempotency_key)
        body = plain(fields)
        with self._one_at_a_time:
            self._publish(f"allocation.{name}", command_id, body)
        if not wait or self._http is None:
            return Outcome(command_id, "pending", {})
        known = self._http.outcome(command_id, wait=wait)
        facts = {**body, **known.facts} if known.status == "succeeded" else known.facts
        return Outcome(known.id, known.status, facts, known.reason)

    def _publish(self, task: str, command_id: str, fields: dict[str, Any]) -> None:
        patience = Patience(self._patience)
        about = fields.get("sku") or fields.get("orderid") or fields.get("batchref")
        message = celery_message(task, command_id, fields, slot_by=about)
        while True:
            try:
                self._connected(patience, command_id).publish(
                    message.body,
                    serializer="json",
                    exchange=_COMMANDS,
                    routing_key=_COMMANDS,
                    headers=message.headers,
                    mandatory=True,
                    confirm_timeout=_CONFIRMED_WITHIN,
                    **message.properties,
                )
                return
            except AccessRefused as error:
                self._disconnect()
                raise Unauthorized(f"the broker refuses the user: {error.reply_text}") from error
            except ChannelError as error:
                self._disconnect()
                raise Unreachable(
                    f"the broker has no queue for commands ({error.reply_text}): `allocation"
                    " topology` declares it",
                    command_id,
                ) from error
            except LOST as error:
                # A queue that is full refuses, too: it may have room later.
                self._disconnect()
                if not patience.pause():
                    raise Unreachable(
                        f"the broker does not confirm ({error!r})", command_id
                    ) from error

    def _connected(self, patience: Patience, command_id: str) -> Producer:
        if self._producer is None:
            self._connection = self._broker.connect(patience=patience, key=command_id)
            self._producer = Producer(self._connection.channel())
        return self._producer

    def _disconnect(self) -> None:
        connection, self._connection, self._producer = self._connection, None, None
        if connection is not None:
            with suppress(*LOST):
                connection.release()


def _command_id(key: UUID | str | None) -> str:
    if key is None:
        return str(uuid4())
    try:
        return str(UUID(str(key)))
    except ValueError:
        return str(uuid5(_IDS, str(key)))
