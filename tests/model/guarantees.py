"""The promises of docs/guarantees.md, as properties of a state."""

from collections.abc import Callable, Iterable

from tests.model.state import Event, State

Promise = Callable[[State], bool]


def a_command_takes_effect_once(state: State) -> bool:
    return len({event.cause for event in state.log}) == len(state.log)


def sequences_have_no_gap(state: State) -> bool:
    """And none is used twice."""
    return _is_in_order(state.log)


def nothing_is_published_that_was_not_committed(state: State) -> bool:
    return all(event in state.log for each in state.subscribers for event in each.queue)


def an_event_takes_effect_once(state: State) -> bool:
    return all(len(set(each.effects)) == len(each.effects) for each in state.subscribers)


def effects_are_in_the_order_of_the_sequence(state: State) -> bool:
    """Without a gap, too; an effect that is repeated breaks another promise."""
    return all(_is_in_order(dict.fromkeys(each.effects)) for each in state.subscribers)


def an_accepted_command_is_not_lost(state: State) -> bool:
    """It is decided, or a dead letter."""
    decided = {event.cause for event in state.log}
    return state.accepted <= decided | state.dead


def a_committed_event_reaches_each_subscriber(state: State) -> bool:
    ids = {event.id for event in state.log}
    return all(ids <= each.received for each in state.subscribers)


def an_event_that_was_received_takes_effect(state: State) -> bool:
    return all(each.received <= {event.id for event in each.effects} for each in state.subscribers)


def a_queue_never_has_an_event_before_its_predecessor(state: State) -> bool:
    """No promise of the service: a subscriber without a resequencer would need it."""
    return _is_in_order(dict.fromkeys(state.shown or ()))


def a_queue_has_the_events_of_a_sku_in_order_at_least_once(state: State) -> bool:
    """Among repeats and early ones, each event follows its predecessor once."""
    followed: list[Event] = []
    for event in state.shown or ():
        if _is_in_order([*followed, event]):
            followed.append(event)
    return set(followed) == set(state.log)


GUARANTEES: tuple[Promise, ...] = (
    a_command_takes_effect_once,
    sequences_have_no_gap,
    nothing_is_published_that_was_not_committed,
    an_event_takes_effect_once,
    effects_are_in_the_order_of_the_sequence,
    an_accepted_command_is_not_lost,
    a_committed_event_reaches_each_subscriber,
    an_event_that_was_received_takes_effect,
)

AT_THE_END: tuple[Promise, ...] = (
    an_accepted_command_is_not_lost,
    a_committed_event_reaches_each_subscriber,
    an_event_that_was_received_takes_effect,
    a_queue_has_the_events_of_a_sku_in_order_at_least_once,
)
"""These hold when no process has anything left to do."""


def _is_in_order(events: Iterable[Event]) -> bool:
    """Whether the sequences of each sku count up from 1."""
    latest: dict[str, int] = {}
    for event in events:
        if event.sequence != latest.get(event.sku, 0) + 1:
            return False
        latest[event.sku] = event.sequence
    return True
