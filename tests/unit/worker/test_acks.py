"""Acknowledgements of many messages in one, on real messages and a channel that records them."""

from kombu.message import Message

from allocation.entrypoints.worker.acks import Acknowledgements
from allocation.entrypoints.worker.spreading import ChannelAcknowledgements
from tests.unit.worker.event_loop import Loop


class Channel:
    """Records what would go to the broker."""

    no_ack_consumers = None

    def __init__(self) -> None:
        self.acknowledged: list[tuple[int, bool]] = []

    def basic_ack(self, tag: int, multiple: bool = False) -> None:
        self.acknowledged.append((tag, multiple))


def delivered(
    channel: Channel, to: Acknowledgements | ChannelAcknowledgements, number: int
) -> list[Message]:
    """So many messages, none of them settled."""
    messages = [Message(body="", delivery_tag=tag, channel=channel) for tag in range(1, number + 1)]
    for message in messages:
        to.expect(message)
    return messages


def test_one_acknowledgement_stands_for_all_before_it() -> None:
    loop, channel = Loop(), Channel()
    acknowledgements = Acknowledgements(loop, ())
    messages = delivered(channel, acknowledgements, 5)

    for message in [messages[2], messages[0], messages[1]]:
        acknowledgements.add(message)
    loop.run_soon()

    assert channel.acknowledged == [(3, True)]


def test_a_message_behind_an_open_one_waits_and_then_goes_by_itself() -> None:
    loop, channel = Loop(), Channel()
    acknowledgements = Acknowledgements(loop, ())
    messages = delivered(channel, acknowledgements, 3)

    acknowledgements.add(messages[2])
    loop.run_soon()
    at_once = list(channel.acknowledged)
    loop.run_later()

    assert at_once == []
    assert channel.acknowledged == [(3, False)]


def test_a_message_that_was_settled_by_itself_holds_nobody_up() -> None:
    loop, channel = Loop(), Channel()
    acknowledgements = Acknowledgements(loop, ())
    messages = delivered(channel, acknowledgements, 2)

    acknowledgements.settled(messages[0])
    acknowledgements.add(messages[1])
    loop.run_soon()

    assert channel.acknowledged == [(2, True)]


def test_a_message_of_a_lost_channel_is_not_taken_for_its_namesake() -> None:
    loop, lost, new = Loop(), Channel(), Channel()
    acknowledgements = Acknowledgements(loop, ())
    old = delivered(lost, acknowledgements, 2)
    acknowledgements.forget()
    fresh = delivered(new, acknowledgements, 2)

    acknowledgements.add(old[0])
    acknowledgements.settled(old[1])
    loop.run_soon()
    loop.run_later()
    untouched = list(new.acknowledged)
    acknowledgements.add(fresh[1])
    loop.run_soon()
    loop.run_later()

    assert (lost.acknowledged, untouched) == ([], [])
    assert new.acknowledged == [(2, False)]
