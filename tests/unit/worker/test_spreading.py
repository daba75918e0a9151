"""Which partitions a worker gives up, and that it does so once their commands are settled."""

import pytest
from kombu.message import Message

from allocation.entrypoints.worker.acks import Acknowledgements
from allocation.entrypoints.worker.spreading import ChannelAcknowledgements, surplus
from tests.unit.worker.event_loop import Loop
from tests.unit.worker.test_acks import Channel, delivered


@pytest.mark.parametrize(
    ("held", "workers", "expected"),
    [
        ("abcdefgh", 1, ""),
        ("hgfedcba", 2, "efgh"),
        ("abcdefgh", 3, "defgh"),
        ("abcd", 2, ""),
        ("abcdef", 16, "bcdef"),
        ("a", 16, ""),
        ("ab", 0, ""),
    ],
)
def test_a_worker_keeps_its_share_of_eight_partitions(
    held: str, workers: int, expected: str
) -> None:
    assert surplus(held, 8, workers) == list(expected)


def test_each_channel_counts_its_own_messages() -> None:
    loop, one, two = Loop(), Channel(), Channel()
    acknowledgements = ChannelAcknowledgements(lambda: Acknowledgements(loop, ()))
    ones, twos = (delivered(each, acknowledgements, 2) for each in (one, two))

    for message in (*ones, twos[0]):
        acknowledgements.add(message)
    loop.run_soon()

    assert (one.acknowledged, two.acknowledged) == ([(2, True)], [(1, True)])
    assert acknowledgements.is_settled(one)
    assert not acknowledgements.is_settled(two)


def test_what_comes_late_for_a_channel_that_was_given_up_is_not_acknowledged() -> None:
    loop, channel = Loop(), Channel()
    acknowledgements = ChannelAcknowledgements(lambda: Acknowledgements(loop, ()))
    [message] = delivered(channel, acknowledgements, 1)

    acknowledgements.forget(channel)
    acknowledgements.add(message)
    acknowledgements.settled(message)
    loop.run_soon()

    assert channel.acknowledged == []
    assert acknowledgements.is_settled(channel)


def test_a_lost_connection_ends_every_channel() -> None:
    loop, one, two = Loop(), Channel(), Channel()
    acknowledgements = ChannelAcknowledgements(lambda: Acknowledgements(loop, ()))
    messages: list[Message] = []
    for each in (one, two):
        messages += delivered(each, acknowledgements, 1)

    acknowledgements.forget()
    for message in messages:
        acknowledgements.add(message)
    loop.run_soon()

    assert (one.acknowledged, two.acknowledged) == ([], [])
