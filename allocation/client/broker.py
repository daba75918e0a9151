"""Connections to RabbitMQ: TLS that verifies, and no endless wait."""

import ssl
from itertools import cycle
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from amqp.exceptions import AccessRefused, AMQPError
from kombu import Connection
from kombu.exceptions import OperationalError

from allocation.client.errors import Unauthorized, Unreachable
from allocation.client.patience import Patience

LOST = (AMQPError, OSError)
"""What a connection raises that is no more, or never was."""

_TLS = {"cacertfile": "ca_certs", "certfile": "certfile", "keyfile": "keyfile"}
_LIMITS = {"read_timeout": 5, "write_timeout": 5}  # seconds


class Broker:
    """The nodes of `url`, with ; between them, of which each connection takes the next.

    An amqps:// URL may name `cacertfile`, `certfile` and `keyfile` in its query, as RabbitMQ's do.
    """

    def __init__(self, url: str) -> None:
        self._nodes = cycle([_options(node) for node in url.split(";")])

    def connect(self, *, patience: Patience, key: str | None = None) -> Connection:
        """An open connection. Raises Unauthorized, and Unreachable once the patience is over."""
        while True:
            connection = Connection(
                **next(self._nodes),
                # Nobody would send ours between two calls: TCP's own signs of life have to do.
                heartbeat=0,
                connect_timeout=5,
                transport_options={"confirm_publish": True, **_LIMITS},
            )
            try:
                connection.ensure_connection(max_retries=0)  # its pauses are long ones
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


def _options(node: str) -> dict[str, Any]:
    base, _, query = node.partition("?")
    scheme, files = urlsplit(base).scheme, dict(parse_qsl(query))
    if scheme not in ("amqp", "amqps") or files.keys() - _TLS or (files and scheme == "amqp"):
        raise ValueError(
            "a broker's URL is amqp://..., or amqps://... with a query of cacertfile, certfile and"
            " keyfile alone"
        )
    if scheme == "amqp":
        return {"hostname": base}
    verified = {"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": urlsplit(base).hostname}
    return {"hostname": base, "ssl": verified | {_TLS[name]: files[name] for name in files}}
