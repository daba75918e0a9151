"""What may happen next, one function a step, at the grain of commits, publishes, confirms and acks.

A transaction that locks what it reads is one step: its commit.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import count
from typing import Any, NamedTuple, TypeVar

from tests.model.protocol import Protocol
from tests.model.state import FREE, Command, Event, Message, Relay, Row, State, Subscriber, Worker


class Step(NamedTuple):
    sentence: str
    after: State


Steps = Iterator[Step]
Kind = Callable[[Protocol, State], Steps]
T = TypeVar("T", bound=tuple[Any, ...])

_PROGRESS: list[Kind] = []
_MISHAPS: list[Kind] = []


def _progress(kind: Kind) -> Kind:
    """Register a step that a process takes sooner or later, if nothing makes it needless."""
    _PROGRESS.append(kind)
    return kind


def _mishap(kind: Kind) -> Kind:
    """Register a step that a story may end without: a fault, a repeat, a late message."""
    _MISHAPS.append(kind)
    return kind


def progress(protocol: Protocol, state: State) -> Steps:
    """What processes may do next; a story ends where there is nothing."""
    for kind in _PROGRESS:
        yield from kind(protocol, state)


def mishaps(protocol: Protocol, state: State) -> Steps:
    """What else may happen next."""
    for kind in _MISHAPS:
        yield from kind(protocol, state)


# Clients and API


@_progress
def a_client_sends(protocol: Protocol, state: State) -> Steps:
    """The API commits the command and its outbox row; or the broker confirms the task.

    A client that gets no answer sends its command again, as if it had not sent it.
    """
    for command in state.to_send:
        after = state._replace(
            to_send=_without(state.to_send, command), accepted=state.accepted | {command}
        )
        if not command.over_http:
            after = after._replace(commands=_with(state.commands, command))
            yield Step(f"a client sends {command} to the broker, which confirms it", after)
        elif protocol.outbox_row_of_command:
            after = after._replace(outbox=_saved(state, [command], _next_position(state)))
            yield Step(f"the API commits {command} and its outbox row, and answers 202", after)
        else:
            yield Step(f"the API commits {command}, and answers 202", after)


@_mishap
def a_client_repeats(protocol: Protocol, state: State) -> Steps:
    """A client that missed the confirm sends its task again, under the same id.

    A repeated request changes nothing, as the API knows its id.
    """
    if state.repeats:
        for command in sorted(state.accepted):
            if not command.over_http:
                commands = _with(state.commands, command)
                after = state._replace(commands=commands, repeats=state.repeats - 1)
                yield Step(f"the client sends {command} again", after)


# Worker


@_progress
def the_worker_receives(protocol: Protocol, state: State) -> Steps:
    """Any command of the queue; further ones join its batch until it is decided."""
    free = state.workers.index(FREE) if FREE in state.workers else None
    for number, worker in enumerate(state.workers):
        is_collecting = (
            0 < len(worker.batch) < state.batch
            and not worker.has_committed
            and worker.decided is None
            and worker.is_connected == protocol.late_acks
        )
        if number != free and not is_collecting:
            continue
        for command in _each(state.commands):
            if worker.batch and (command.fails or worker.batch[0].fails):
                continue  # bisection isolates what fails
            batch = (*worker.batch, command)
            received = worker._replace(batch=batch, is_connected=protocol.late_acks)
            commands = _without(state.commands, command)
            yield Step(
                f"{_worker(state, number)} receives {command}{_acknowledged(protocol.late_acks)}",
                _set(state, number, received, commands=commands),
            )


@_progress
def the_worker_decides(protocol: Protocol, state: State) -> Steps:
    """It opens a transaction and decides its batch; a step of its own if others can see that."""
    if not protocol.shows_open_transactions:
        return
    locked = {event.sku for worker in state.workers for event in worker.decided or ()}
    for number, worker in _deciding(state):
        skus = {command.sku for command in worker.batch}
        if worker.decided is None and not (protocol.product_lock and skus & locked):
            events = _decided(protocol, state, worker.batch)
            is_early = protocol.publishes_directly == "before its commit"
            decided = worker._replace(
                decided=events,
                position=_next_position(state),
                to_publish=events if is_early else (),
            )
            yield Step(
                f"{_worker(state, number)} decides {_list(worker.batch)}: {_list(events)}",
                _set(state, number, decided),
            )


@_progress
def the_worker_commits(protocol: Protocol, state: State) -> Steps:
    """One commit saves inbox, effects, events and outbox rows."""
    for number, worker in _deciding(state):
        who = _worker(state, number)
        if protocol.shows_open_transactions:
            if worker.decided is None or worker.to_publish or worker.line:
                continue
            events, position = worker.decided, worker.position
        else:
            events, position = _decided(protocol, state, worker.batch), _next_position(state)
        if protocol.inbox and any(event.cause in state.decided for event in events):
            again = _set(state, number, worker._replace(decided=None))
            yield Step(f"{who} rolls back, as another one has saved the id", again)
            continue
        is_after = protocol.publishes_directly == "after its commit"
        committed = worker._replace(
            batch=worker.batch if worker.is_connected else (),
            decided=None,
            has_committed=True,
            to_publish=_to_publish(protocol, state, events) if is_after else (),
        )
        after = _set(
            state,
            number,
            committed,
            decided=state.decided.union(worker.batch),
            log=state.log + events,
        )
        if protocol.outbox_row_of_event:
            after = after._replace(outbox=_saved(state, events, position))
        what = _list(events) if events else "known already, no event"
        yield Step(f"{who} commits {_list(worker.batch)}: {what}", after)


@_progress
def the_worker_acknowledges(protocol: Protocol, state: State) -> Steps:
    for number, worker in enumerate(state.workers):
        if worker.has_committed and worker.batch:
            yield Step(
                f"{_worker(state, number)} acknowledges {_list(worker.batch)}",
                _set(state, number, worker._replace(batch=())),
            )


@_progress
def the_worker_publishes(protocol: Protocol, state: State) -> Steps:
    """The events of its transaction, on one connection, without waiting for each confirm."""
    for number, worker in enumerate(state.workers):
        if events := worker.to_publish:
            published = worker._replace(to_publish=(), line=events, unmarked=events)
            yield Step(
                f"{_worker(state, number)} publishes {_list(events)}",
                _set(state, number, published),
            )


@_progress
def the_worker_marks(protocol: Protocol, state: State) -> Steps:
    """Delete the outbox rows of the events that the broker has confirmed; leave the others."""
    for number, worker in enumerate(state.workers):
        settled = [event for event in worker.unmarked if event not in worker.line]
        if protocol.worker_marks == "published":
            settled = list(worker.unmarked)
        if settled and worker.has_committed:
            left = tuple(event for event in worker.unmarked if event not in settled)
            after = _set(state, number, worker._replace(unmarked=left))
            rows = [row for row in state.outbox if row.message in settled]
            if protocol.worker_marks != "published":
                rows = [row for row in rows if row.message not in worker.refused]
            if protocol.worker_marks == "confirmed, in order":
                rows = _in_order(state.outbox, rows)
            yield Step(f"{_worker(state, number)} marks {_list(rows)}", _marked(after, rows))


@_progress
def the_worker_dead_letters(protocol: Protocol, state: State) -> Steps:
    """Copy a command that can't be decided to the dead-letter queue, then acknowledge it."""
    for number, worker in enumerate(state.workers):
        if worker.has_committed or not (worker.batch and worker.batch[0].fails):
            continue
        who, command = _worker(state, number), worker.batch[0]
        if worker.is_connected and not protocol.dead_letter_before_ack:
            acknowledged = _set(state, number, worker._replace(is_connected=False))
            yield Step(f"{who} can't decide {command}, and acknowledges it", acknowledged)
        else:
            left = worker.batch if worker.is_connected else ()
            copied = worker._replace(batch=left, has_committed=True)
            yield Step(
                f"{who} can't decide {command}, and the dead-letter queue confirms it",
                _set(state, number, copied, dead=state.dead | {command}),
            )


@_mishap
def a_worker_dies(protocol: Protocol, state: State) -> Steps:
    """Its transaction is rolled back; the broker redelivers what it has not acknowledged."""
    if state.faults:
        for number, worker in enumerate(state.workers):
            if worker != FREE:
                back = worker.batch if worker.is_connected else ()
                after = _lost(state, worker.line)
                yield Step(
                    f"{_worker(state, number)} dies{_redelivered(back)}",
                    _set(after, number, FREE, commands=_with(state.commands, *back)),
                )


@_mishap
def a_worker_loses_its_connection(protocol: Protocol, state: State) -> Steps:
    """The broker redelivers its batch, while a process of its pool goes on to decide it."""
    if state.faults:
        for number, worker in enumerate(state.workers):
            if worker.is_connected and worker.batch and not worker.has_committed:
                commands = _with(state.commands, *worker.batch)
                alone = worker._replace(is_connected=False)
                yield Step(
                    f"{_worker(state, number)} loses its connection, but its process goes on"
                    + _redelivered(worker.batch),
                    _set(_lost(state), number, alone, commands=commands),
                )


@_mishap
def a_worker_gets_no_confirm(protocol: Protocol, state: State) -> Steps:
    """In time: it publishes no longer, and leaves its rows as they are."""
    if state.faults:
        for number, worker in enumerate(state.workers):
            if worker.has_committed and (worker.to_publish or worker.line):
                silent = worker._replace(to_publish=(), line=(), unmarked=(), refused=frozenset())
                yield Step(
                    f"{_worker(state, number)} gets no confirm in time, and leaves its rows",
                    _set(_lost(state, worker.line), number, silent),
                )


# Relay


@_progress
def the_relay_selects(protocol: Protocol, state: State) -> Steps:
    """Pending rows, in their order: all, or those that it does not leave to a worker."""
    relay = state.relay
    rows = tuple(row for row in state.outbox if row not in relay.unmarked)
    if protocol.relay_selects == "rows after a cursor":
        rows = tuple(row for row in rows if row.position > relay.cursor)
    if not protocol.relay or relay.selected:
        return
    for selected in _each((rows, _not_left(protocol, state, rows))):
        if not selected:
            continue
        chosen = relay._replace(selected=selected)
        if protocol.relay_selects == "rows after a cursor":
            chosen = chosen._replace(cursor=selected[-1].position)
        after = state._replace(relay=chosen)
        what = f"the relay selects {_list(selected)}"
        if protocol.relay_marks == "selected":
            yield Step(f"{what}, and marks them", _marked(after, selected))
        else:
            yield Step(what, after)


@_progress
def the_relay_publishes(protocol: Protocol, state: State) -> Steps:
    """What it selected, on one connection, without waiting for each confirm."""
    relay = state.relay
    if rows := relay.selected:
        unmarked = () if protocol.relay_marks == "selected" else relay.unmarked + rows
        published = relay._replace(selected=(), line=relay.line + rows, unmarked=unmarked)
        yield Step(f"the relay publishes {_list(rows)}", state._replace(relay=published))


@_progress
def the_relay_marks(protocol: Protocol, state: State) -> Steps:
    """The confirmed rows; if one was refused, it then connects again and forgets the others."""
    relay = state.relay
    if relay.selected or (relay.refused and relay.line):
        return
    done = list(relay.unmarked)
    if protocol.relay_marks != "published":
        done = [row for row in done if row not in relay.line and row not in relay.refused]
    if protocol.relay_marks == "confirmed, in order":
        done = _in_order(relay.unmarked, done)
    if relay.refused:
        again = _marked(state._replace(relay=Relay(cursor=relay.cursor)), done)
        yield Step(f"the relay marks {_list(done)}, and connects again", again)
    elif done:
        left = tuple(row for row in relay.unmarked if row not in done)
        after = _marked(state._replace(relay=relay._replace(unmarked=left)), done)
        yield Step(f"the relay marks {_list(done)}", after)


@_progress
def the_relay_resends(protocol: Protocol, state: State) -> Steps:
    """A command that is pending while the queue is empty; a worker may have it all the same."""
    if protocol.resends and not state.commands:
        unsent = {row.message for row in state.outbox}
        for command in sorted(state.accepted - state.decided - state.dead - unsent):
            if command.over_http:
                outbox = _saved(state, [command], _next_position(state))
                after = state._replace(outbox=outbox)
                yield Step(f"the relay adds {command}, which is overdue, to the outbox", after)


@_mishap
def the_relay_dies(protocol: Protocol, state: State) -> Steps:
    """Or loses its connection: it forgets what it selected and published."""
    relay = state.relay
    if state.faults and (relay.selected or relay.unmarked or relay.line):
        after = _lost(state, tuple(row.message for row in relay.line))
        yield Step(
            "the relay dies, and another one starts",
            after._replace(relay=Relay(cursor=relay.cursor)),
        )


# Broker


@_progress
def the_broker_keeps(protocol: Protocol, state: State) -> Steps:
    """The next message of a connection is in its queues, and is confirmed."""
    if state.relay.line:
        row, *rows = state.relay.line
        relay = state.relay._replace(line=tuple(rows))
        after = _kept(state._replace(relay=relay), row.message)
        yield Step(f"the broker keeps {row}, and confirms it to the relay", after)
    for number, worker in enumerate(state.workers):
        if worker.line:
            event, *events = worker.line
            after = _kept(_set(state, number, worker._replace(line=tuple(events))), event)
            who = _worker(state, number)
            yield Step(f"the broker keeps {event}, and confirms it to {who}", after)


@_mishap
def the_broker_refuses(protocol: Protocol, state: State) -> Steps:
    """The next message of a connection, such as for a full queue."""
    if not state.faults:
        return
    if state.relay.line:
        row, *rows = state.relay.line
        relay = state.relay._replace(line=tuple(rows), refused=state.relay.refused | {row})
        yield Step(f"the broker refuses {row} to the relay", _lost(state)._replace(relay=relay))
    for number, worker in enumerate(state.workers):
        if worker.line:
            event, *events = worker.line
            refused = worker._replace(line=tuple(events), refused=worker.refused | {event})
            who = _worker(state, number)
            yield Step(f"the broker refuses {event} to {who}", _set(_lost(state), number, refused))


@_mishap
def the_broker_gets_what_was_adrift(protocol: Protocol, state: State) -> Steps:
    """The next message of a lost connection: nobody gets the confirm.

    A story may end without it: the broker forgets what it has not confirmed.
    """
    for line in _each(state.adrift):
        adrift = _with(_without(state.adrift, line), *([line[1:]] if line[1:] else []))
        after = _kept(state._replace(adrift=adrift), line[0])
        yield Step(f"the broker keeps {line[0]}, which the lost connection brought", after)


@_mishap
def the_queue_of_commands_is_purged(protocol: Protocol, state: State) -> Steps:
    if state.purges and state.commands:
        after = state._replace(commands=(), purges=state.purges - 1)
        yield Step(f"the queue of commands is purged: {_list(state.commands)} are gone", after)


# Subscriber


@_progress
def the_subscriber_receives(protocol: Protocol, state: State) -> Steps:
    """Any event of its queue; further ones join its batch until it commits."""
    for number, subscriber in enumerate(state.subscribers):
        if not subscriber.has_committed and len(subscriber.batch) < state.batch:
            for event in _each(subscriber.queue):
                received = subscriber._replace(
                    queue=_without(subscriber.queue, event), batch=_with(subscriber.batch, event)
                )
                early = _acknowledged(protocol.subscriber_late_acks)
                yield Step(
                    f"{_subscriber(state, number)} receives {event}{early}",
                    _set_subscriber(state, number, received),
                )


@_progress
def the_subscriber_commits(protocol: Protocol, state: State) -> Steps:
    """One commit saves inbox, events that are held back, and effects."""
    for number, subscriber in enumerate(state.subscribers):
        batch, known = subscriber.batch, subscriber.received
        if not batch or subscriber.has_committed:
            continue
        fresh = list(_each(batch))
        if protocol.subscriber_inbox:
            fresh = [event for event in fresh if event.id not in known]
        due, held = tuple(fresh), subscriber.held
        if protocol.resequencer:
            due, held = _released(subscriber, held.union(fresh))
        committed = subscriber._replace(
            batch=batch if protocol.subscriber_late_acks else (),
            has_committed=protocol.subscriber_late_acks,
            received=known.union(event.id for event in fresh),
            held=held,
            effects=subscriber.effects + due,
        )
        yield Step(
            f"{_subscriber(state, number)} commits {_list(batch)}, and applies {_list(due)}",
            _set_subscriber(state, number, committed),
        )


@_progress
def the_subscriber_acknowledges(protocol: Protocol, state: State) -> Steps:
    for number, subscriber in enumerate(state.subscribers):
        if subscriber.has_committed:
            yield Step(
                f"{_subscriber(state, number)} acknowledges {_list(subscriber.batch)}",
                _set_subscriber(state, number, subscriber._replace(batch=(), has_committed=False)),
            )


@_mishap
def a_subscriber_dies(protocol: Protocol, state: State) -> Steps:
    """The broker redelivers what it has not acknowledged."""
    if state.faults:
        for number, subscriber in enumerate(state.subscribers):
            if subscriber.batch:
                back = subscriber.batch if protocol.subscriber_late_acks else ()
                queue = _with(subscriber.queue, *back)
                died = subscriber._replace(queue=queue, batch=(), has_committed=False)
                yield Step(
                    f"{_subscriber(state, number)} dies{_redelivered(back)}",
                    _set_subscriber(_lost(state), number, died),
                )


@_mishap
def a_subscriber_dies_between_two_commits(protocol: Protocol, state: State) -> Steps:
    """If its inbox and its effects are in two transactions: the ids are saved by then."""
    if protocol.effect_in_same_commit or not state.faults:
        return
    for number, subscriber in enumerate(state.subscribers):
        if batch := subscriber.batch:
            died = subscriber._replace(
                queue=_with(subscriber.queue, *batch),
                batch=(),
                received=subscriber.received.union(event.id for event in batch),
            )
            yield Step(
                f"{_subscriber(state, number)} saves the id of {_list(batch)}, and dies"
                + _redelivered(batch),
                _set_subscriber(_lost(state), number, died),
            )


@_mishap
def a_subscriber_gives_up_waiting(protocol: Protocol, state: State) -> Steps:
    """It goes on without the events that are missing, and applies them late if they come."""
    if protocol.patience or not state.faults:
        return
    for number, subscriber in enumerate(state.subscribers):
        for sku in sorted({event.sku for event in subscriber.held}):
            first = min(event for event in subscriber.held if event.sku == sku)
            due, held = _released(subscriber, subscriber.held, skip_to=first)
            went_on = subscriber._replace(held=held, effects=subscriber.effects + due)
            yield Step(
                f"{_subscriber(state, number)} waits no longer, and applies {_list(due)}",
                _set_subscriber(_lost(state), number, went_on),
            )


@_mishap
def an_event_is_replayed(protocol: Protocol, state: State) -> Steps:
    """An operator sends a committed event to a subscriber's queue again."""
    if state.repeats:
        for number, subscriber in enumerate(state.subscribers):
            for event in state.log:
                replayed = subscriber._replace(queue=_with(subscriber.queue, event))
                after = _set_subscriber(state, number, replayed)
                yield Step(
                    f"an operator replays {event} to {_subscriber(state, number)}",
                    after._replace(repeats=state.repeats - 1),
                )


# What the steps have in common


def _deciding(state: State) -> Iterator[tuple[int, Worker]]:
    """The workers with commands to decide."""
    for number, worker in enumerate(state.workers):
        if worker.batch and not worker.has_committed and not worker.batch[0].fails:
            yield number, worker


def _decided(protocol: Protocol, state: State, batch: Sequence[Command]) -> tuple[Event, ...]:
    """The events of those commands that the inbox does not know."""
    known = set(state.decided) if protocol.inbox else set()
    events: list[Event] = []
    for command in batch:
        if command not in known:
            earlier = sum(event.sku == command.sku for event in (*state.log, *events))
            events.append(Event(command.sku, earlier + 1, command))
        if protocol.inbox:
            known.add(command)
    return tuple(events)


def _to_publish(protocol: Protocol, state: State, events: tuple[Event, ...]) -> tuple[Event, ...]:
    """What a worker publishes itself after its commit."""
    if not protocol.worker_keeps_order:
        return events
    earlier = {row.message.sku for row in state.outbox if isinstance(row.message, Event)}
    return tuple(event for event in events if event.sku not in earlier)


def _not_left(protocol: Protocol, state: State, rows: tuple[Row, ...]) -> tuple[Row, ...]:
    """What the relay does not leave to workers that are about to publish or mark it."""
    left = {event for each in state.workers for event in (*each.to_publish, *each.unmarked)}
    skus = {event.sku for event in left} if protocol.relay_leaves == "products" else set()
    return tuple(
        row
        for row in rows
        if row.message not in left
        and not (isinstance(row.message, Event) and row.message.sku in skus)
    )


def _next_position(state: State) -> int:
    """A position after all that are in use, or reserved by an open transaction."""
    reserved = [each.position + len(each.decided) - 1 for each in state.workers if each.decided]
    return 1 + max([state.relay.cursor, *(row.position for row in state.outbox), *reserved])


def _saved(state: State, messages: Iterable[Message], position: int) -> tuple[Row, ...]:
    """The outbox with new rows."""
    return _with(state.outbox, *map(Row, count(position), messages))


def _marked(state: State, rows: Collection[Row]) -> State:
    return state._replace(outbox=tuple(row for row in state.outbox if row not in rows))


def _in_order(rows: Iterable[Row], confirmed: Collection[Row]) -> list[Row]:
    """The confirmed rows, without those that follow another row of their sku."""
    done: list[Row] = []
    held: set[str] = set()
    for row in rows:
        if row in confirmed and row.message.sku not in held:
            done.append(row)
        else:
            held.add(row.message.sku)
    return done


def _kept(state: State, message: Message) -> State:
    """With the message in its queues: the fanout brings an event to each subscriber."""
    if isinstance(message, Command):
        return state._replace(commands=_with(state.commands, message))
    return state._replace(
        subscribers=tuple(
            each._replace(queue=_with(each.queue, message)) for each in state.subscribers
        ),
        shown=None if state.shown is None else (*state.shown, message),
    )


def _released(
    subscriber: Subscriber, came: frozenset[Event], skip_to: Event | None = None
) -> tuple[tuple[Event, ...], frozenset[Event]]:
    """The events that are due, up to the next gap of each sku; and those that are early."""
    latest = dict.fromkeys((event.sku for event in came), 0)
    for event in subscriber.effects:
        latest[event.sku] = max(latest.get(event.sku, 0), event.sequence)
    if skip_to is not None:
        latest[skip_to.sku] = skip_to.sequence - 1
    due: list[Event] = []
    for event in sorted(came):
        if event.sequence <= latest[event.sku] + 1:
            due.append(event)
            latest[event.sku] = max(latest[event.sku], event.sequence)
    return tuple(due), came.difference(due)


def _lost(state: State, line: tuple[Message, ...] = ()) -> State:
    """After a fault, in which a connection may be lost with what is on its way to the broker."""
    adrift = _with(state.adrift, line) if line else state.adrift
    return state._replace(faults=state.faults - 1, adrift=adrift)


def _set(state: State, number: int, worker: Worker, **changes: Any) -> State:
    """With other changes, and this worker, which is free once it has nothing left to do."""
    is_busy = worker.batch or worker.to_publish or worker.line or worker.unmarked
    if worker.has_committed and not is_busy:
        worker = FREE
    workers = (*state.workers[:number], worker, *state.workers[number + 1 :])
    return state._replace(workers=workers, **changes)


def _set_subscriber(state: State, number: int, subscriber: Subscriber) -> State:
    others = state.subscribers
    return state._replace(subscribers=(*others[:number], subscriber, *others[number + 1 :]))


def _with(held: tuple[T, ...], *more: T) -> tuple[T, ...]:
    """With more, sorted: what is picked from in any order has none of its own."""
    return tuple(sorted([*held, *more])) if more else held


def _without(held: tuple[T, ...], one: T) -> tuple[T, ...]:
    where = held.index(one)
    return held[:where] + held[where + 1 :]


def _each(held: tuple[T, ...]) -> Iterable[T]:
    """Each one, and those that are equal once."""
    return dict.fromkeys(held)


def _worker(state: State, number: int) -> str:
    return "the worker" if len(state.workers) == 1 else f"worker {number + 1}"


def _subscriber(state: State, number: int) -> str:
    return "the subscriber" if len(state.subscribers) == 1 else f"subscriber {number + 1}"


def _list(named: Iterable[Any]) -> str:
    return ", ".join(map(str, named)) or "nothing"


def _acknowledged(later: bool) -> str:
    return "" if later else ", and acknowledges it"


def _redelivered(messages: Collection[Message]) -> str:
    return f", and the broker redelivers {_list(messages)}" if messages else ""
