"""Who may do what at RabbitMQ: one user a role, with the least rights; said only here."""

import json
import ssl
import urllib.request
from base64 import b64encode
from collections.abc import Mapping
from urllib.parse import quote

from kombu import Connection

from allocation.adapters.rabbitmq import topology
from allocation.messaging import connection

MANAGEMENT_PORT = 15672
_TIMEOUT = 15  # seconds


class NoUsers(Exception):
    """The users could not be made; the text says why, and what to do."""


Rights = Mapping[str, str]
"""As the management API takes them: a regular expression for each kind of right."""


def _rights(*, configure: str = "", write: str = "", read: str = "") -> Rights:
    """Each pattern must match the whole name of a queue or exchange."""
    patterns = {"configure": configure, "write": write, "read": read}
    return {right: f"^(?:{pattern})$" for right, pattern in patterns.items()}


def _named(*names: str) -> str:
    return "|".join(name.replace(".", r"\.") for name in names)


def _consumer(queue: str, *written: str) -> Rights:
    return _rights(write=_named(f"{queue}.dead", *written), read=_named(queue))


# Celery's remote control and events: the node's and the asker's queues, and their exchanges.
_REMOTE = r"(.+\.)?celery\.pidbox|celeryev(\..+)?"

# To bind a queue takes the right to write to it, and to read from the exchange.
_PUBLISHES_EVENTS = _named(topology.EVENTS, *topology.SUBSCRIBERS)

ROLES: Mapping[str, Rights] = {
    # Its page counts, shows and replays dead letters; it accepts commands without a broker.
    "api": _rights(
        write=_named("amq.default", topology.COMMANDS), read=_named(*topology.dead_queues())
    ),
    "worker": _rights(
        configure=_REMOTE,
        # Retries go to the broker's own delay, commands that fail to the dead-letter queue.
        write=rf"{_REMOTE}|celery_delayed_\d+|{_named(topology.DEAD)}|{_PUBLISHES_EVENTS}",
        # Of its partitions, too.
        read=rf"{_REMOTE}|{_named(topology.COMMANDS)}(\.\d+)*"
        rf"|{_named(topology.EVENTS, topology.WORKERS)}",
    ),
    "relay": _rights(
        write=f"{_named(topology.COMMANDS)}|{_PUBLISHES_EVENTS}",
        read=_named(topology.EVENTS),
    ),
    "inbound": _consumer(topology.INBOUND),
    # It publishes its own events to the queue of inbound events.
    "warehouse": _consumer("warehouse.events", topology.INBOUND),
    "notification": _consumer("notification.events"),
    "flower": _rights(configure=_REMOTE, write=_REMOTE, read=_REMOTE),
    # For people who replay dead letters and events.
    "operator": _rights(write=".*", read=".*"),
}


def make_users(url: str, management: str, passwords: Mapping[str, str]) -> list[str]:
    """Make each user, or give it this password and its rights again; returns their names.

    `url` is the broker's, with a user who has the tag `administrator`; `management` is the address
    of its management API, by default on the same host. Raises NoUsers.
    """
    if not passwords:
        return []
    found = connection.address(url)
    node = Connection(found.url.split(";")[0])
    base = management.rstrip("/") or f"http://{node.hostname}:{MANAGEMENT_PORT}"
    login = b64encode(f"{node.userid}:{node.password}".encode()).decode()
    context = ssl.create_default_context(cafile=found.tls.get("ca_certs"))
    vhost = quote(node.virtual_host, safe="")

    def put(path: str, body: object) -> None:
        request = urllib.request.Request(  # noqa: S310 - the scheme is checked with the settings
            f"{base}/api/{path}",
            method="PUT",
            data=json.dumps(body).encode(),
            headers={"Authorization": f"Basic {login}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT, context=context):  # noqa: S310
                pass
        except OSError as error:
            raise NoUsers(
                f"the management API at {base} refused {path}: {error}. ALLOCATION_BROKER_URL must"
                " have an administrator's user, and ALLOCATION_BROKER_MANAGEMENT_URL must be"
                " the API's address"
            ) from error

    for name, password in passwords.items():
        put(f"users/{name}", {"password": password, "tags": ""})
        put(f"permissions/{vhost}/{name}", ROLES[name])
    return list(passwords)


def parse(users: str) -> dict[str, str]:
    """`worker:password relay:password ...` as a mapping; raises ValueError without a password."""
    pairs = dict(pair.partition(":")[::2] for pair in users.split())
    for number, (name, password) in enumerate(pairs.items(), start=1):
        if name not in ROLES or not password:
            raise ValueError(
                f"the user number {number} is not ROLE:PASSWORD, where ROLE is one of"
                f" {', '.join(ROLES)}"
            )
    return pairs
