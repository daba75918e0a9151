"""The protocol as it is, as it could be, and without each of its mechanisms."""

from dataclasses import dataclass, field, replace

from tests.model.guarantees import (
    GUARANTEES,
    Promise,
    a_command_takes_effect_once,
    a_committed_event_reaches_each_subscriber,
    a_queue_has_the_events_of_a_sku_in_order_at_least_once,
    a_queue_never_has_an_event_before_its_predecessor,
    an_accepted_command_is_not_lost,
    an_event_takes_effect_once,
    an_event_that_was_received_takes_effect,
    effects_are_in_the_order_of_the_sequence,
    nothing_is_published_that_was_not_committed,
    sequences_have_no_gap,
)
from tests.model.protocol import Protocol
from tests.model.search import Verdict, search
from tests.model.state import Bounds, Command

A1, A2, B1 = Command("A1"), Command("A2"), Command("B1")
"""Tasks: commands that clients send to the broker."""
REQUEST = Command("A1", over_http=True)
POISON = Command("A1", fails=True)

SERVICE = Protocol()
"""The service as it is: workers publish their events themselves, and the relay what they leave."""
RELAY = replace(SERVICE, publishes_directly=None)
"""As it is on the embedded broker, or with ALLOCATION_PUBLISH_DIRECTLY=false."""
RESENDING = replace(RELAY, resends=True)
"""The same, with its remedy for commands that the broker has lost."""

FIRST_IN_ORDER = (a_queue_never_has_an_event_before_its_predecessor,)
ONCE_IN_ORDER = (a_queue_has_the_events_of_a_sku_in_order_at_least_once,)


ON_TWO_COMMANDS = Bounds((A1, A2), subscribers=0, batch=2)
"""Nobody consumes: only the order in which events come to a queue is looked at."""


@dataclass(frozen=True)
class Variant:
    """A protocol, how much happens, and what is promised."""

    name: str
    protocol: Protocol
    bounds: Bounds
    promises: tuple[Promise, ...] = GUARANTEES

    def __str__(self) -> str:
        return self.name

    def search(self) -> Verdict:
        return search(self.protocol, self.bounds, self.promises)


@dataclass(frozen=True)
class Control(Variant):
    """A variant that lacks a mechanism, or asks for too much, and the promise that it breaks."""

    breaks: Promise = field(kw_only=True)
    whole: Protocol = RELAY
    """The same with the mechanism, which breaks nothing within the same bounds."""


HOLDING = (
    Variant("a request and a task", RELAY, Bounds((REQUEST, A2), faults=1)),
    Variant("a request, two faults", RELAY, Bounds((REQUEST,), faults=2)),
    Variant("a task, two faults", RELAY, Bounds((A1,), faults=2, repeats=1, workers=2)),
    Variant("two tasks, two faults", RELAY, Bounds((A1, A2), faults=2)),
    Variant("two tasks, a repeat", RELAY, Bounds((A1, A2), faults=1, repeats=1)),
    Variant("two workers", RELAY, Bounds((A1, A2), faults=1, workers=2)),
    Variant("two products", RELAY, Bounds((A1, B1), faults=1)),
    Variant("two subscribers", RELAY, Bounds((A1,), faults=1, repeats=1, subscribers=2)),
    Variant("batches", RELAY, Bounds((A1, A2), faults=1, batch=2)),
    Variant("dead letters", RELAY, Bounds((POISON, A2), faults=2)),
    Variant(
        "the broker loses commands",
        RESENDING,
        Bounds((REQUEST,), faults=1, purges=1),
    ),
    Variant(
        "the order of a queue",
        RELAY,
        replace(ON_TWO_COMMANDS, faults=2, workers=2),
        ONCE_IN_ORDER,
    ),
    Variant("the order of a queue, no fault", RELAY, ON_TWO_COMMANDS, FIRST_IN_ORDER),
    Variant("direct: two tasks", SERVICE, Bounds((A1, A2), faults=1)),
    Variant("direct: a task, two faults", SERVICE, Bounds((A1,), faults=2, repeats=1)),
    Variant("direct: two workers", SERVICE, Bounds((A1, A2), workers=2)),
    Variant("direct: batches", SERVICE, Bounds((A1, A2), batch=2)),
    Variant("direct: two subscribers", SERVICE, Bounds((A1,), faults=1, subscribers=2)),
    Variant(
        "direct: the order of a queue",
        SERVICE,
        replace(ON_TWO_COMMANDS, faults=1),
        ONCE_IN_ORDER,
    ),
    Variant(
        "direct: the order of a queue, two workers",
        SERVICE,
        replace(ON_TWO_COMMANDS, faults=1, workers=2),
        ONCE_IN_ORDER,
    ),
)

CONTROLS = (
    Control(
        "commands are acknowledged as they are received",
        replace(RELAY, late_acks=False),
        Bounds((A1,), faults=1),
        breaks=an_accepted_command_is_not_lost,
    ),
    Control(
        "no inbox",
        replace(RELAY, inbox=False),
        Bounds((A1,), faults=1),
        breaks=a_command_takes_effect_once,
    ),
    Control(
        "no lock",
        replace(RELAY, product_lock=False),
        Bounds((A1, A2), workers=2),
        breaks=sequences_have_no_gap,
    ),
    Control(
        "a command is accepted without an outbox row",
        replace(RELAY, outbox_row_of_command=False),
        Bounds((REQUEST,)),
        breaks=an_accepted_command_is_not_lost,
    ),
    Control(
        "no outbox: events are published before the commit",
        replace(RELAY, outbox_row_of_event=False, publishes_directly="before its commit"),
        Bounds((A1,)),
        breaks=nothing_is_published_that_was_not_committed,
    ),
    Control(
        "no outbox: events are published after the commit",
        replace(RELAY, outbox_row_of_event=False, publishes_directly="after its commit"),
        Bounds((A1,), faults=1),
        breaks=a_committed_event_reaches_each_subscriber,
    ),
    Control(
        "a failed command is acknowledged before the dead-letter queue has it",
        replace(RELAY, dead_letter_before_ack=False),
        Bounds((POISON,), faults=1),
        breaks=an_accepted_command_is_not_lost,
    ),
    Control(
        "the relay marks what it selected",
        replace(RELAY, relay_marks="selected"),
        Bounds((A1,), faults=1),
        breaks=a_committed_event_reaches_each_subscriber,
    ),
    Control(
        "the relay marks what it published",
        replace(RELAY, relay_marks="published"),
        Bounds((A1,), faults=1),
        breaks=a_committed_event_reaches_each_subscriber,
    ),
    Control(
        "the relay selects what follows the last row",
        replace(RELAY, relay_selects="rows after a cursor"),
        Bounds((A1, B1), workers=2),
        breaks=a_committed_event_reaches_each_subscriber,
    ),
    Control(
        "the relay does not resend",
        RELAY,
        Bounds((REQUEST,), purges=1),
        breaks=an_accepted_command_is_not_lost,
        whole=RESENDING,
    ),
    Control(
        "events are acknowledged as they are received",
        replace(RELAY, subscriber_late_acks=False),
        Bounds((A1,), faults=1),
        breaks=a_committed_event_reaches_each_subscriber,
    ),
    Control(
        "no subscriber's inbox",
        replace(RELAY, subscriber_inbox=False),
        Bounds((A1,), faults=1),
        breaks=an_event_takes_effect_once,
    ),
    Control(
        "a subscriber's inbox has a transaction of its own",
        replace(RELAY, effect_in_same_commit=False),
        Bounds((A1,), faults=1),
        breaks=an_event_that_was_received_takes_effect,
    ),
    Control(
        "no resequencer",
        replace(RELAY, resequencer=False),
        Bounds((A1, A2)),
        breaks=effects_are_in_the_order_of_the_sequence,
    ),
    Control(
        "a subscriber's patience ends too early",
        replace(RELAY, patience=False),
        Bounds((A1, A2), faults=1),
        breaks=effects_are_in_the_order_of_the_sequence,
    ),
    Control(
        "the relay marks out of order",
        replace(RELAY, relay_marks="confirmed"),
        replace(ON_TWO_COMMANDS, faults=1),
        ONCE_IN_ORDER,
        breaks=a_queue_has_the_events_of_a_sku_in_order_at_least_once,
    ),
    Control(
        "a queue is asked for more order, and the broker refuses an event",
        RELAY,
        replace(ON_TWO_COMMANDS, faults=1),
        FIRST_IN_ORDER,
        breaks=a_queue_never_has_an_event_before_its_predecessor,
    ),
    Control(
        "direct: no relay",
        replace(SERVICE, relay=False),
        Bounds((A1,), faults=1),
        breaks=a_committed_event_reaches_each_subscriber,
        whole=SERVICE,
    ),
    Control(
        "direct: before the commit",
        replace(SERVICE, publishes_directly="before its commit"),
        Bounds((A1,)),
        breaks=nothing_is_published_that_was_not_committed,
        whole=SERVICE,
    ),
    Control(
        "direct: the worker marks what it published",
        replace(SERVICE, worker_marks="published"),
        Bounds((A1,), faults=1),
        breaks=a_committed_event_reaches_each_subscriber,
        whole=SERVICE,
    ),
    Control(
        "direct: no subscriber's inbox, no fault",
        replace(SERVICE, subscriber_inbox=False),
        Bounds((A1,)),
        breaks=an_event_takes_effect_once,
        whole=SERVICE,
    ),
    Control(
        "direct: no resequencer",
        replace(SERVICE, resequencer=False),
        Bounds((A1, A2)),
        breaks=effects_are_in_the_order_of_the_sequence,
        whole=SERVICE,
    ),
    Control(
        "direct, in any order: one worker",
        replace(SERVICE, worker_keeps_order=False),
        replace(ON_TWO_COMMANDS, faults=1),
        ONCE_IN_ORDER,
        breaks=a_queue_has_the_events_of_a_sku_in_order_at_least_once,
        whole=SERVICE,
    ),
    Control(
        "direct, in any order: two workers, no fault",
        replace(SERVICE, worker_keeps_order=False),
        replace(ON_TWO_COMMANDS, workers=2, batch=1),
        ONCE_IN_ORDER,
        breaks=a_queue_has_the_events_of_a_sku_in_order_at_least_once,
        whole=SERVICE,
    ),
    Control(
        "direct: the worker marks out of order",
        replace(SERVICE, worker_marks="confirmed"),
        replace(ON_TWO_COMMANDS, faults=1),
        ONCE_IN_ORDER,
        breaks=a_queue_has_the_events_of_a_sku_in_order_at_least_once,
        whole=SERVICE,
    ),
    Control(
        "direct: the relay leaves to a worker only its rows",
        replace(SERVICE, relay_leaves="rows"),
        replace(ON_TWO_COMMANDS, workers=2, batch=1),
        ONCE_IN_ORDER,
        breaks=a_queue_has_the_events_of_a_sku_in_order_at_least_once,
        whole=SERVICE,
    ),
)
