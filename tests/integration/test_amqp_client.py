"""The client for Python services on RabbitMQ: commands are confirmed, events heard again."""

import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from kombu import Connection

from allocation.adapters.rabbitmq import topology
from allocation.client import (
    AmqpClient,
    ClientError,
    Event,
    Unauthorized,
    Unreachable,
    listen,
)
from allocation.contract import registry
from allocation.entrypoints.worker.admission import check
from tests.faults.proxy import Link, Proxy
from tests.integration.conftest import Service
from tests.servers.ports import LOOPBACK, free_ports
from tests.servers.vhosts import Vhosts

pytestmark = pytest.mark.long

CALLERS = sorted(registry.COMMANDS.keys() - registry.FOLLOW_UPS)
LINE: dict[str, Any] = {"orderid": "order-1", "sku": "LAMP", "qty": 3}
ALLOCATED = registry.example("allocation.allocated.v1")


@pytest.fixture
def proxy(service: Service) -> Iterator[Proxy]:
    """Between client and broker; cuts nothing by itself."""
    made = Proxy(service.broker_url)
    yield made
    made.close()


def ids(service: Service) -> list[str]:
    """The ids of the commands on the queue, which they leave."""
    return [message.headers["id"] for message in service.messages(topology.COMMANDS)]


def tell(broker_url: str, *bodies: str) -> None:
    """Publish these on the exchange of the events."""
    with Connection(broker_url, transport_options={"confirm_publish": True}) as connection:
        for body in bodies:
            connection.Producer().publish(
                body,
                exchange=topology.EVENTS,
                routing_key="",
                content_type="application/cloudevents+json",
                content_encoding="utf-8",
            )


def numbered(*sequences: int) -> list[str]:
    """Events that differ by their number."""
    return [json.dumps(ALLOCATED | {"sequence": number}) for number in sequences]


def test_each_command_is_sent_as_the_contracts_example(service: Service) -> None:
    """In messages that the worker admits, which outlive the broker."""
    with AmqpClient(service.broker_url) as client:
        sent = {
            name: getattr(client, name.removeprefix("allocation."))(**registry.example(name))
            for name in CALLERS
        }

    messages = service.messages(topology.COMMANDS)
    for message in messages:
        check(message, registry.COMMANDS)
        assert message.properties["delivery_mode"] == 2
    assert {
        message.headers["task"]: (message.headers["id"], message.payload) for message in messages
    } == {name: (outcome.id, [[], registry.example(name), {}]) for name, outcome in sent.items()}
    assert {(outcome.status, str(outcome.facts)) for outcome in sent.values()} == {
        ("pending", "{}")
    }


def test_a_lost_confirm_is_asked_for_again_with_the_same_id(service: Service) -> None:
    """The broker has the command twice, and it takes effect once."""
    losing = False

    def lose(link: Link, data: bytes, to_server: bool) -> bytes:
        nonlocal losing
        if losing and not to_server:
            losing = False
            link.close()
            return b""
        return data

    proxy = Proxy(service.broker_url, watch=lose)
    with AmqpClient(proxy.url) as client:
        first = client.allocate(**LINE)
        losing = True

        second = client.allocate(**LINE)

    proxy.close()
    assert ids(service) == [first.id, second.id, second.id]


def test_a_connection_that_broke_between_two_commands_is_opened_again(
    service: Service, proxy: Proxy
) -> None:
    """As after a restart of the broker, or a firewall's forgetting."""
    with AmqpClient(proxy.url) as client:
        first = client.allocate(**LINE)
        assert proxy.cut() == 1

        second = client.allocate(**LINE)

    assert ids(service) == [first.id, second.id]


def test_the_idempotency_key_is_the_id_or_gives_it(service: Service) -> None:
    """So the same key is the same command for ever."""
    key = UUID("0c9ad1a4-5a52-4d4e-8b0e-3f4f5a1f7e10")
    with AmqpClient(service.broker_url) as client:
        client.allocate(**LINE, idempotency_key=key)
        client.allocate(**LINE, idempotency_key="order-1/LAMP")
        client.allocate(**LINE, idempotency_key="order-1/LAMP")

    named = "a0c39b8e-a502-509e-86c4-efee96783cbd"
    assert ids(service) == [str(key), named, named]


def test_a_command_that_nobody_takes_is_an_error(broker_url: str) -> None:
    """Without the exchange, and without the queue."""
    with AmqpClient(broker_url) as client:
        with pytest.raises(Unreachable, match="`allocation topology` declares it") as raised:
            client.allocate(**LINE, idempotency_key=UUID(int=7))
        with Connection(broker_url) as connection:
            topology.commands_exchange()(connection.channel()).declare()
        with pytest.raises(Unreachable, match="NO_ROUTE"):
            client.allocate(**LINE)

    assert raised.value.idempotency_key == str(UUID(int=7))


def test_a_broker_that_is_away_or_refuses_the_user_is_told_apart(broker_url: str) -> None:
    """For senders and listeners alike."""
    [port] = free_ports(1)
    away = f"amqp://guest:guest@{LOOPBACK}:{port}//"
    given = Connection(broker_url)
    wrong = f"amqp://{given.userid}:wrong@{given.hostname}:{given.port}/{given.virtual_host}"

    with pytest.raises(Unreachable, match=f"the broker {LOOPBACK}:{port} can't be reached"):
        AmqpClient(away, patience=0).allocate(**LINE)
    with pytest.raises(Unreachable), listen(away, "shop.events", patience=0):
        pass
    with pytest.raises(Unauthorized, match="the broker refuses the user"):
        AmqpClient(wrong).allocate(**LINE)
    with pytest.raises(Unauthorized), listen(wrong, "shop.events"):
        pass


def test_who_waits_for_an_outcome_names_whom_to_ask(broker_url: str) -> None:
    """Before anything is sent: the broker tells none."""
    with pytest.raises(ValueError, match="HttpClient"), AmqpClient(broker_url) as client:
        client.allocate(**LINE, wait=1)


def test_a_url_that_is_none_of_a_broker_is_refused() -> None:
    """Without a word of it, as it has a password."""
    for url in ("redis://me:secret@host", "amqp://me:secret@host?cacertfile=ca.pem"):
        with pytest.raises(ValueError, match=r"^a broker's URL is amqp://") as raised:
            AmqpClient(url)

        assert "secret" not in str(raised.value)


def test_an_event_is_heard_with_all_that_it_tells(service: Service) -> None:
    """Also one that was told while nobody listened; each once, as each was acknowledged."""
    with listen(service.broker_url, "shop.events", quiet=0.1) as events:
        assert list(events) == []
    tell(service.broker_url, json.dumps(ALLOCATED), *numbered(3))

    with listen(service.broker_url, "shop.events", quiet=0.5) as events:
        heard = list(events)

    example = Event(
        id="8d1f6a0c-2f7b-5c3a-9f57-4b0f6f5c0a02",
        type="allocation.allocated.v1",
        sku="RED-CHAIR",
        sequence=2,
        time="2029-12-01T09:30:00.000000+00:00",
        data=ALLOCATED["data"],
        causationid="0c9ad1a4-5a52-4d4e-8b0e-3f4f5a1f7e10",
        causationtype="allocation.allocate",
        correlationid="0c9ad1a4-5a52-4d4e-8b0e-3f4f5a1f7e10",
    )
    assert [heard[0], heard[1].sequence] == [example, 3]
    assert service.depth("shop.events") == 0


def divide_until_two(broker_url: str) -> None:
    """Work on the events; the second one fails."""
    with listen(broker_url, "shop.events") as events:
        for event in events:
            print(1 // (event.sequence - 2))


def test_an_event_whose_block_failed_comes_again(service: Service) -> None:
    """One whose block ended, by the end of the `with` too, does not."""
    with listen(service.broker_url, "shop.events"):
        pass
    tell(service.broker_url, *numbered(1, 2, 3, 4))

    with pytest.raises(ZeroDivisionError):
        divide_until_two(service.broker_url)
    with listen(service.broker_url, "shop.events") as events:
        again = next(events).sequence
    with listen(service.broker_url, "shop.events", quiet=0.5) as events:
        rest = [event.sequence for event in events]

    assert (again, rest) == (2, [3, 4])


def test_a_lost_connection_is_opened_again_and_no_event_missed(
    service: Service, proxy: Proxy
) -> None:
    """The one that was being worked on comes again."""
    with listen(proxy.url, "shop.events", quiet=2) as events:
        tell(service.broker_url, *numbered(1, 2))
        heard = [next(events).sequence]
        proxy.cut()

        heard += [event.sequence for event in events]

    # What had come already is heard before the loss is noticed, and then again.
    assert heard in ([1, 1, 2], [1, 2, 1, 2])


def test_a_connection_that_broke_while_nothing_came_is_opened_again(
    service: Service, proxy: Proxy
) -> None:
    """What is told then waits in the queue."""
    with listen(proxy.url, "shop.events", quiet=2) as events:
        proxy.cut()
        tell(service.broker_url, *numbered(7))

        assert [event.sequence for event in events] == [7]


def test_what_is_no_event_goes_to_a_dead_letter_queue(service: Service) -> None:
    """And stops nobody."""
    with listen(service.broker_url, "shop.events", quiet=1) as events:
        tell(service.broker_url, "{", '{"id": "1"}', "[]", *numbered(5))

        assert [event.sequence for event in events] == [5]

    bodies = [message.body for message in service.messages("shop.events.dead")]
    assert sorted(bodies) == ["[]", "{", '{"id": "1"}']


def test_who_may_not_listen_is_told_why(broker_url: str) -> None:
    """Where nothing is told, and where the name is taken by another kind of queue."""
    with (
        pytest.raises(Unreachable, match="no exchange for events"),
        listen(broker_url, "shop.events"),
    ):
        pass
    with Connection(broker_url) as connection:
        topology.declare(connection)
        connection.channel().queue_declare("taken", durable=True, auto_delete=False)

    with pytest.raises(
        ClientError, match="a queue or exchange of this name exists with other properties"
    ):
        listen(broker_url, "taken").__enter__()


def test_a_user_needs_few_rights(service: Service, rabbitmq: Vhosts) -> None:
    """To write commands, to read events, and queues whose names are one's own."""
    vhost = Connection(service.broker_url)
    name = f"shop-{vhost.virtual_host}"
    rabbitmq.api("PUT", f"/api/users/{name}", {"password": "pass-shop", "tags": ""})
    rights = {
        "configure": r"^shop\.",
        "write": r"^(shop\..*|allocation\.commands)$",
        "read": r"^(shop\..*|allocation\.events)$",
    }
    rabbitmq.api("PUT", f"/api/permissions/{vhost.virtual_host}/{name}", rights)
    url = f"amqp://{name}:pass-shop@{vhost.hostname}:{vhost.port}/{vhost.virtual_host}"

    with listen(url, "shop.events", quiet=0.5) as events, AmqpClient(url) as client:
        sent = client.allocate(**LINE)
        tell(service.broker_url, *numbered(9))
        heard = [event.sequence for event in events]
    with pytest.raises(Unauthorized), listen(url, "other.events"):
        pass

    rabbitmq.api("DELETE", f"/api/users/{name}")
    assert (ids(service), heard) == ([sent.id], [9])
