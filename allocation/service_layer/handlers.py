"""One function per command: load the product, call it once; `decide` commits what came of it."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import NAMESPACE_OID, UUID, uuid5

from allocation.domain import commands
from allocation.domain.books import OrderLine
from allocation.domain.commands import Command, FollowUp
from allocation.domain.outcomes import Fact, Outcome, Refused, Succeeded
from allocation.domain.product import Product
from allocation.service_layer.unit_of_work import Message, UnitOfWork


def create_batch(command: commands.CreateBatch, uow: UnitOfWork) -> Outcome:
    """Put a batch on the books; the first batch of a sku makes the product known."""
    if uow.products.get_by_batchref(command.batchref) is not None:
        return Refused("batchref taken", field="batchref", batchref=command.batchref)
    product = uow.products.get(command.sku)
    if product is None:
        product = uow.products.add(command.sku)
    return product.create_batch(command.batchref, command.qty, command.eta, command.best_before)


def allocate(command: commands.Allocate, uow: UnitOfWork) -> Outcome:
    """Promise stock to one order line."""
    product = uow.products.get(command.sku)
    if product is None:
        return Refused("unknown sku", field="sku", sku=command.sku)
    return product.allocate(_line(command))


def reserve(command: commands.Reserve, uow: UnitOfWork) -> Outcome:
    """Hold stock for one order line, for a while."""
    product = uow.products.get(command.sku)
    if product is None:
        return Refused("unknown sku", field="sku", sku=command.sku)
    return product.reserve(_line(command), uow.now() + timedelta(seconds=command.ttl))


def allocate_order(command: commands.AllocateOrder, uow: UnitOfWork) -> Outcome:
    """Promise stock to every line of an order, or hold it: each for itself, or all of them."""
    if len({line.sku for line in command.lines}) < len(command.lines):
        return Refused("sku twice", field="lines", orderid=command.orderid)
    wanted = [
        OrderLine(command.orderid, line.sku, line.qty, command.customer, line.split)
        for line in sorted(command.lines, key=lambda line: line.sku)
    ]
    if command.all_or_nothing:
        for line in wanted:
            product = uow.products.get(line.sku)
            if product is None:
                return Refused("unknown sku", field="lines", sku=line.sku)
            if refused := product.cannot_promise(line, hold=command.ttl is not None):
                return refused
    expires_at = uow.now() + timedelta(seconds=command.ttl) if command.ttl is not None else None
    return Succeeded(
        status="decided", lines=[_one_of_order(line, expires_at, uow) for line in wanted]
    )


def _one_of_order(line: OrderLine, expires_at: datetime | None, uow: UnitOfWork) -> dict[str, Fact]:
    """What became of one line of an order, with the rule's reason where it was refused."""
    product = uow.products.get(line.sku)
    told: dict[str, Fact] = {"sku": line.sku, "qty": line.qty}
    if product is None:
        return told | {"status": "rejected", "reason": "unknown sku"}
    outcome = product.reserve(line, expires_at) if expires_at else product.allocate(line)
    if isinstance(outcome, Refused):
        return told | {"status": "rejected", "reason": outcome.reason}
    return told | dict(outcome.facts)


def confirm(command: commands.Confirm, uow: UnitOfWork) -> Outcome:
    """Make every held line of the order an allocation.

    A line that waits for stock, wholly or in part, goes on waiting, for an allocation; with
    `all_or_nothing` the command is refused instead. A hold that ended in the meantime, by the clock
    alone, is confirmed all the same: its stock is still there.
    """
    held = _holding(command.orderid, uow)
    if not held:
        return _no_reservation(command.orderid)
    waiting = [product for product in held if product.waits(command.orderid)]
    if command.all_or_nothing and waiting:
        sku = waiting[0].sku
        return Refused("not all held", field="orderid", orderid=command.orderid, sku=sku)
    for product in held:
        product.confirm(command.orderid)
    return Succeeded(
        status="waiting" if waiting else "confirmed",
        lines=len(held) - len(waiting),
        waiting=len(waiting),
    )


def extend(command: commands.Extend, uow: UnitOfWork) -> Outcome:
    """Hold the order's held lines for longer, never for a shorter time: all of them, or none."""
    held = _holding(command.orderid, uow)
    if not held:
        return _no_reservation(command.orderid)
    for product in held:
        if not product.can_extend(command.orderid):
            sku = product.sku
            return Refused("extended already", field="orderid", orderid=command.orderid, sku=sku)
    expires_at = uow.now() + timedelta(seconds=command.ttl)
    extended = [product.extend(command.orderid, expires_at) for product in held]
    waiting = sum(product.waits(command.orderid) for product in held)
    ends = [end for product in held if (end := product.held_until(command.orderid))]
    return Succeeded(
        status="extended" if any(extended) else "unchanged",
        lines=len(held) - waiting,
        waiting=waiting,
        expires_at=min(ends).isoformat(),
    )


def release(command: commands.Release, uow: UnitOfWork) -> Outcome:
    """Give up every held line of the order, also lines that wait for stock."""
    held = _holding(command.orderid, uow)
    if not held:
        return _no_reservation(command.orderid)
    for product in held:
        product.release(command.orderid)
    return Succeeded(status="released", lines=len(held))


def expire(command: commands.Expire, uow: UnitOfWork) -> Outcome:
    """Give up the lines of the order whose time has come; those confirmed or extended stay."""
    products = uow.products.of_order(command.orderid)
    expired = [product.expire(command.orderid, command.expires_at) for product in products]
    return Succeeded(status="expired" if any(expired) else "kept", lines=sum(expired))


def dispatch(command: commands.Dispatch, uow: UnitOfWork) -> Outcome:
    """Take an allocated line's goods off the books."""
    product = uow.products.get(command.sku)
    if product is None:
        return Refused("unknown sku", field="sku", sku=command.sku)
    return product.dispatch(command.orderid, command.batchref)


def deallocate(command: commands.Deallocate, uow: UnitOfWork) -> Outcome:
    """Give up one order line."""
    product = uow.products.get(command.sku)
    if product is None:
        return Refused("unknown sku", field="sku", sku=command.sku)
    return product.deallocate(command.orderid)


def change_batch_quantity(command: commands.ChangeBatchQuantity, uow: UnitOfWork) -> Outcome:
    """Set what a batch holds; lines that it can no longer serve move."""
    product = uow.products.get_by_batchref(command.batchref)
    if product is None:
        return Refused("unknown batchref", field="batchref", batchref=command.batchref)
    return product.change_batch_quantity(command.batchref, command.qty)


def change_batch_eta(command: commands.ChangeBatchEta, uow: UnitOfWork) -> Outcome:
    """Set when a batch arrives; lines that another batch serves earlier than that move."""
    product = uow.products.get_by_batchref(command.batchref)
    if product is None:
        return Refused("unknown batchref", field="batchref", batchref=command.batchref)
    return product.change_batch_eta(command.batchref, command.eta)


def write_off(command: commands.WriteOff, uow: UnitOfWork) -> Outcome:
    """Take pieces off a batch; lines that it can no longer serve move."""
    product = uow.products.get_by_batchref(command.batchref)
    if product is None:
        return Refused("unknown batchref", field="batchref", batchref=command.batchref)
    return product.write_off(command.batchref, command.qty, command.reason)


def choose_strategy(command: commands.ChooseStrategy, uow: UnitOfWork) -> Outcome:
    """Have a product's batches serve in another order."""
    product = uow.products.get(command.sku)
    if product is None:
        return Refused("unknown sku", field="sku", sku=command.sku)
    return product.choose_strategy(command.strategy)


def review_promises(command: commands.ReviewPromises, uow: UnitOfWork) -> Outcome:
    """Go on telling the lines of a batch that it comes on another day."""
    product = uow.products.get_by_batchref(command.batchref)
    if product is None:
        return Refused("unknown batchref", field="batchref", batchref=command.batchref)
    return product.review_promises(command.batchref)


def allocate_waiting(command: commands.AllocateWaiting, uow: UnitOfWork) -> Outcome:
    """Serve the lines that wait for this sku."""
    product = uow.products.get(command.sku)
    if product is None:
        return Refused("unknown sku", field="sku", sku=command.sku)
    return product.allocate_waiting()


def refuse_malformed(command: commands.Malformed, uow: UnitOfWork) -> Outcome:
    """Record what can't be understood, so that its sender finds out why."""
    return Refused("malformed command", field=command.field, problem=command.problem)


HANDLERS: dict[type[Command], Callable[[Any, UnitOfWork], Outcome]] = {
    commands.CreateBatch: create_batch,
    commands.Allocate: allocate,
    commands.AllocateOrder: allocate_order,
    commands.Reserve: reserve,
    commands.Confirm: confirm,
    commands.Extend: extend,
    commands.Release: release,
    commands.Expire: expire,
    commands.Dispatch: dispatch,
    commands.Deallocate: deallocate,
    commands.ChangeBatchQuantity: change_batch_quantity,
    commands.ChangeBatchEta: change_batch_eta,
    commands.WriteOff: write_off,
    commands.ChooseStrategy: choose_strategy,
    commands.AllocateWaiting: allocate_waiting,
    commands.ReviewPromises: review_promises,
    commands.Malformed: refuse_malformed,
}


def accept(message: Message, uow: UnitOfWork) -> None:
    """Take responsibility for a command: once this returns, it is not lost. Repeats do nothing."""
    accept_together([message], uow)


def accept_together(messages: Sequence[Message], uow: UnitOfWork) -> None:
    """As `accept`, for many commands by one commit: all are taken, or none is."""
    with uow:
        uow.inbox.accept(messages)
        uow.commit()


def decide(message: Message, uow: UnitOfWork) -> Outcome:
    """Carry a command out, once: a repeat gets the recorded outcome.

    Stock, outcome, events and follow-ups are saved by one commit. Raises what the unit of work
    raises; then nothing was saved.
    """
    return decide_together([message], uow)[0]


def decide_together(messages: Sequence[Message], uow: UnitOfWork) -> list[Outcome]:
    """As `decide`, for many commands by one commit: all are saved, or none is.

    Each is carried out by itself, in this order; a refusal touches no other.
    """
    with uow:
        uow.products.load([commands.meant(message.command) for message in messages])
        outcomes = uow.inbox.claim(messages)
        left: dict[FollowUp, Message] = {}
        for message in messages:
            if message.id in outcomes:
                continue
            command = message.command
            if uow.inbox.was_accepted(message):
                command = commands.meant(command)
            outcome = HANDLERS[type(command)](command, uow)
            for product in uow.products.pull_seen():
                for event in product.pull_events():
                    uow.outbox.add(event, message)
                left |= dict.fromkeys(product.pull_follow_ups(), message)
            uow.inbox.record(message, outcome)
            outcomes[message.id] = outcome
        # Each follows once, after the last command that left it to be done.
        following = [_following(command, cause) for command, cause in left.items()]
        uow.inbox.accept(
            [each for each in following if not isinstance(each.command, commands.Expire)]
        )
        for each in following:
            if isinstance(each.command, commands.Expire):
                uow.outbox.schedule(each, each.command.expires_at)
        uow.commit()
    return [outcomes[message.id] for message in messages]


def fail(message: Message, error: str, uow: UnitOfWork) -> None:
    """Record that nobody could decide the command; delivered again, it may still be decided."""
    with uow:
        uow.inbox.record_failure(message, error)
        uow.commit()


def drop(command_id: UUID, uow: UnitOfWork) -> bool:
    """Refuse a command that nobody could decide, for good; False when there is none of this id."""
    with uow:
        dropped = uow.inbox.give_up(command_id, Refused("dropped", field="id"))
        uow.commit()
    return dropped


def _line(command: commands.Allocate | commands.Reserve) -> OrderLine:
    return OrderLine(command.orderid, command.sku, command.qty, command.customer, command.split)


def _holding(orderid: str, uow: UnitOfWork) -> list[Product]:
    """The products of which the order has a held line."""
    return [each for each in uow.products.of_order(orderid) if each.held_until(orderid)]


def _no_reservation(orderid: str) -> Refused:
    return Refused("no reservation", field="orderid", orderid=orderid)


def _following(command: FollowUp, cause: Message) -> Message:
    match command:
        case commands.AllocateWaiting(sku):
            what = f"allocate_waiting {sku}"
        case commands.ReviewPromises(batchref):
            what = f"review_promises {batchref}"
        case commands.Expire(orderid, expires_at):
            what = f"expire {orderid} {expires_at.isoformat()}"
    return Message(
        # Derived, so that the same cause never asks for the same twice.
        id=uuid5(NAMESPACE_OID, f"{cause.id} {what}"),
        command=command,
        correlation_id=cause.correlation_id,
        causation_id=cause.id,
        traceparent=cause.traceparent,
    )
