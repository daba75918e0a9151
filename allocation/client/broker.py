"""Connections to RabbitMQ that are tried again for a while."""

from urllib.parse import urlsplit

from amqp.exceptions import AccessRefused, AMQPError
from kombu import Connection
from kombu.exceptions import OperationalError

from allocation.client.errors import Unauthorized, Unreachable
from allocation.client.patience import Patience
from allocation.messaging.connection import each_node

LOST = (AMQPError, OSError)
"""What a connection raises that is no more, or never was."""


class Broker:
    """The nodes of `url`, with ; between them; each new connection goes to the next node.

    An amqps:// URL may name `cacertfile`, `certfile` and `keyfile` in its query, as RabbitMQ's do.
    """

    def __init__(self, url: str) -> None:
        """Raises ValueError if the URL is not one of RabbitMQ's."""
        wanted = "a broker's URL is amqp://..., or amqps://... with TLS"
        if any(urlsplit(node).scheme not in ("amqp", "amqps") for node in url.split(";")):
            raise ValueError(wanted)
        try:
            self._nodes = each_node(url)
        except ValueError as error:
            raise ValueError(f"{wanted}; {error}") from error

    def connect(self, *, patience: Patience, key: str | None = None) -> Connection:
        """An open connection. Raises Unauthorized, and Unreachable once the patience is over."""
        while True:
            connection = next(self._nodes)
            try:
                connection.ensure_connection(max_retries=0)  # kombu would wait too long
            except AccessRefused as error:
                raise Unauthorized(f"the broker refuses the user: {error.reply_text}") from error
            except (OperationalError, *LOST) as error:
                if not patience.pause():
                    where = f"{connection.hostname}:{connection.port}"
                    raise Unreachable(
                        f"the broker {where} can't be reached ({error})", key
                    ) from error
            else:
                return connection
