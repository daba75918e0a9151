"""One function per command: load the product, call it once."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, TypeVar

from allocation.domain import commands
from allocation.domain.books import OrderLine
from allocation.domain.commands import Command
from allocation.domain.outcomes import Fact, Outcome, Refused, Succeeded
from allocation.domain.product import Product
from allocation.service_layer.unit_of_work import UnitOfWork

C = TypeVar("C", bound=Command)
Handler = Callable[[C, UnitOfWork], Outcome]
Decision = Callable[[C, Product], Outcome]


class NotOnTheBooks(Exception):
    """Goods were reported to have left that the books do not have: people must look into it."""


HANDLERS: dict[type[Command], Handler[Any]] = {}
"""By the class of the command; `handles` and `product_decides` add to it."""


def handles(kind: type[C]) -> Callable[[Handler[C]], Handler[C]]:
    """Make the function the handler of a command."""

    def register(handler: Handler[C]) -> Handler[C]:
        HANDLERS[kind] = handler
        return handler

    return register


def product_decides(kind: type[C]) -> Callable[[Decision[C]], Decision[C]]:
    """Make the function the handler of a command that names one product, by sku or by batch.

    The command is refused if there is none.
    """

    def register(decide: Decision[C]) -> Decision[C]:
        @handles(kind)
        def load_and_decide(command: C, uow: UnitOfWork) -> Outcome:
            product = _product_of(command, uow)
            return product if isinstance(product, Refused) else decide(command, product)

        return decide

    return register


@handles(commands.CreateBatch)
def create_batch(command: commands.CreateBatch, uow: UnitOfWork) -> Outcome:
    """Put a batch on the books; the first batch of a sku makes the product known."""
    if uow.products.get_by_batchref(command.batchref) is not None:
        return Refused("batchref taken", field="batchref", batchref=command.batchref)
    product = uow.products.get(command.sku)
    if product is None:
        product = uow.products.add(command.sku)
    return product.create_batch(command.batchref, command.qty, command.eta, command.best_before)


@handles(commands.CreateProduct)
def create_product(command: commands.CreateProduct, uow: UnitOfWork) -> Outcome:
    """Make a product known before its first batch; one that is known keeps its strategy."""
    product = uow.products.get(command.sku)
    if product is None:
        added = uow.products.add(command.sku)
        return added.create(command.strategy, command.waiting, command.improve)
    wanted = command.strategy, command.waiting, command.improve
    if wanted != (product.strategy, product.waiting, product.improve):
        return Refused("product known", field="sku", sku=command.sku, strategy=product.strategy)
    return Succeeded(status="unchanged", sku=command.sku)


@product_decides(commands.ChangeBatchQuantity)
def change_batch_quantity(command: commands.ChangeBatchQuantity, product: Product) -> Outcome:
    """Change a batch's quantity; lines that it can no longer serve move."""
    return product.change_batch_quantity(command.batchref, command.qty, command.expected_version)


@product_decides(commands.Receive)
def receive(command: commands.Receive, product: Product) -> Outcome:
    """Add pieces to a batch."""
    return product.receive(command.batchref, command.qty)


@product_decides(commands.WriteOff)
def write_off(command: commands.WriteOff, product: Product) -> Outcome:
    """Write off pieces of a batch; lines that it can no longer serve move."""
    return product.write_off(command.batchref, command.qty, command.reason)


@product_decides(commands.ChangeBatchEta)
def change_batch_eta(command: commands.ChangeBatchEta, product: Product) -> Outcome:
    """Set when a batch arrives; lines that another batch serves earlier than that move."""
    return product.change_batch_eta(command.batchref, command.eta, command.expected_version)


@product_decides(commands.ChangeBestBefore)
def change_best_before(command: commands.ChangeBestBefore, product: Product) -> Outcome:
    """Correct the last good day of a batch; lines that it no longer serves move."""
    return product.change_best_before(
        command.batchref, command.best_before, command.expected_version
    )


@product_decides(commands.BlockBatch)
def block_batch(command: commands.BlockBatch, product: Product) -> Outcome:
    """Have a batch serve no line; its lines move, or wait."""
    return product.block_batch(command.batchref, command.reason, command.expected_version)


@product_decides(commands.UnblockBatch)
def unblock_batch(command: commands.UnblockBatch, product: Product) -> Outcome:
    """Have a blocked batch serve lines again."""
    return product.unblock_batch(command.batchref, command.expected_version)


@product_decides(commands.ExpireBatch)
def expire_batch(command: commands.ExpireBatch, product: Product) -> Outcome:
    """Take a batch out whose last good day has passed."""
    return product.expire_batch(command.batchref, command.best_before)


@product_decides(commands.MarkOverdue)
def mark_overdue(command: commands.MarkOverdue, product: Product) -> Outcome:
    """Publish that a batch has not arrived on its day."""
    return product.mark_overdue(command.batchref, command.eta)


@product_decides(commands.ChooseStrategy)
def choose_strategy(command: commands.ChooseStrategy, product: Product) -> Outcome:
    """Have a product's batches serve in another order."""
    return product.choose_strategy(
        command.strategy, command.waiting, command.improve, command.expected_version
    )


@product_decides(commands.Allocate)
def allocate(command: commands.Allocate, product: Product) -> Outcome:
    """Allocate stock to one order line."""
    return product.allocate(_line(command, command.orderid, command.customer))


@handles(commands.Reserve)
def reserve(command: commands.Reserve, uow: UnitOfWork) -> Outcome:
    """Hold stock for one order line, for a while."""
    product = _product_of(command, uow)
    if isinstance(product, Refused):
        return product
    line = _line(command, command.orderid, command.customer)
    return product.reserve(line, uow.now() + timedelta(seconds=command.ttl))


@handles(commands.AllocateOrder)
def allocate_order(command: commands.AllocateOrder, uow: UnitOfWork) -> Outcome:
    """Promise stock to every line of an order, or hold it: each for itself, or all of them."""
    if len({line.sku for line in command.lines}) < len(command.lines):
        return Refused("sku twice", field="lines", orderid=command.orderid)
    wanted = [
        _line(line, command.orderid, command.customer)
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
    """The outcome of one line of an order; of a refusal, the reason."""
    product = uow.products.get(line.sku)
    standing: dict[str, Fact] = {"sku": line.sku, "qty": line.qty}
    if product is None:
        return standing | {"status": "rejected", "reason": "unknown sku"}
    outcome = product.reserve(line, expires_at) if expires_at else product.allocate(line)
    if isinstance(outcome, Refused):
        return standing | {"status": "rejected", "reason": outcome.reason}
    return standing | dict(outcome.facts)


@handles(commands.Confirm)
def confirm(command: commands.Confirm, uow: UnitOfWork) -> Outcome:
    """Make every reservation of the order an allocation.

    A line that waits for stock, wholly or in part, goes on waiting, for an allocation; with
    `all_or_nothing` the command is refused instead. A reservation whose time has passed, and that
    `expire` has not ended yet, is confirmed all the same: its stock is still there.
    """
    held = _reserved_products(command.orderid, uow)
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


@handles(commands.Extend)
def extend(command: commands.Extend, uow: UnitOfWork) -> Outcome:
    """Have the order's reservations expire later, never earlier: all of them, or none."""
    held = _reserved_products(command.orderid, uow)
    if not held:
        return _no_reservation(command.orderid)
    for product in held:
        if not product.can_extend(command.orderid):
            sku = product.sku
            return Refused("extended already", field="orderid", orderid=command.orderid, sku=sku)
    expires_at = uow.now() + timedelta(seconds=command.ttl)
    extended = [product.extend(command.orderid, expires_at) for product in held]
    waiting = sum(product.waits(command.orderid) for product in held)
    ends = [end for product in held if (end := product.reserved_until(command.orderid))]
    return Succeeded(
        status="extended" if any(extended) else "unchanged",
        lines=len(held) - waiting,
        waiting=waiting,
        expires_at=min(ends).isoformat(),
    )


@handles(commands.Release)
def release(command: commands.Release, uow: UnitOfWork) -> Outcome:
    """Give up every reservation of the order, also of lines that wait for stock."""
    held = _reserved_products(command.orderid, uow)
    if not held:
        return _no_reservation(command.orderid)
    for product in held:
        product.release(command.orderid)
    return Succeeded(status="released", lines=len(held))


@handles(commands.Expire)
def expire(command: commands.Expire, uow: UnitOfWork) -> Outcome:
    """Give up the reservations of the order that end then; those confirmed or extended stay."""
    products = uow.products.of_order(command.orderid)
    expired = [product.expire(command.orderid, command.expires_at) for product in products]
    return Succeeded(status="expired" if any(expired) else "kept", lines=sum(expired))


@handles(commands.Dispatch)
def dispatch(command: commands.Dispatch, uow: UnitOfWork) -> Outcome:
    """Take an allocated line's goods off the books.

    Raises NotOnTheBooks if goods were reported to have left that the books do not have.
    """
    product = _product_of(command, uow)
    outcome = (
        product
        if isinstance(product, Refused)
        else product.dispatch(command.orderid, command.batchref, command.qty)
    )
    if command.reported and isinstance(outcome, Refused):
        facts = ", ".join(f"{name} {fact}" for name, fact in outcome.facts.items())
        raise NotOnTheBooks(
            f"goods were reported to have left, and the books do not have them: {outcome.reason}"
            f" ({facts}); order {command.orderid}, sku {command.sku}, qty {command.qty or 'all'}"
        )
    return outcome


@handles(commands.ReturnGoods)
def return_goods(command: commands.ReturnGoods, uow: UnitOfWork) -> Outcome:
    """Take dispatched goods back into a batch of the same product."""
    known = uow.products.get_by_batchref(command.batchref)
    product = uow.products.get(command.sku)
    if product is None:
        return Refused("unknown sku", field="sku", sku=command.sku)
    if known not in (None, product):
        return Refused("batchref taken", field="batchref", batchref=command.batchref)
    return product.return_goods(
        command.orderid, command.qty, command.batchref, command.usable, command.reason
    )


@product_decides(commands.ChangeLineQuantity)
def change_line_quantity(command: commands.ChangeLineQuantity, product: Product) -> Outcome:
    """Have an order line want more or fewer pieces."""
    return product.change_line_quantity(command.orderid, command.qty, command.expected_version)


@handles(commands.ChangePriority)
def change_priority(command: commands.ChangePriority, uow: UnitOfWork) -> Outcome:
    """Set the priority of one line of an order, or of all of them."""
    if command.sku is not None:
        product = uow.products.get(command.sku)
        if product is None:
            return Refused("unknown sku", field="sku", sku=command.sku)
        return product.change_priority(command.orderid, command.priority, command.expected_version)
    products = uow.products.of_order(command.orderid)
    if not products:
        return _unknown_order(command.orderid)
    for product in products:
        product.change_priority(command.orderid, command.priority)
    return Succeeded(status="changed", priority=command.priority, lines=len(products))


@handles(commands.CancelOrder)
def cancel_order(command: commands.CancelOrder, uow: UnitOfWork) -> Outcome:
    """Give up every line of the order; what has left stays."""
    products = uow.products.of_order(command.orderid)
    if not products:
        return _unknown_order(command.orderid)
    cancelled = sum([product.cancel(command.orderid) for product in products])
    dispatched = sum(product.dispatched_pieces(command.orderid) > 0 for product in products)
    if not cancelled:
        return Refused("dispatched", field="orderid", orderid=command.orderid)
    return Succeeded(status="cancelled", lines=cancelled, dispatched=dispatched)


@product_decides(commands.Deallocate)
def deallocate(command: commands.Deallocate, product: Product) -> Outcome:
    """Cancel one order line."""
    return product.deallocate(command.orderid, command.expected_version)


@product_decides(commands.ReviewPromises)
def review_promises(command: commands.ReviewPromises, product: Product) -> Outcome:
    """Go on with the lines that a batch serves on another day."""
    return product.review_promises(command.batchref)


@product_decides(commands.AllocateWaiting)
def allocate_waiting(command: commands.AllocateWaiting, product: Product) -> Outcome:
    """Serve the waiting lines of this sku."""
    return product.allocate_waiting()


@handles(commands.Malformed)
def refuse_malformed(command: commands.Malformed, uow: UnitOfWork) -> Outcome:
    """Record why the command is invalid, so that its sender finds out."""
    first = command.violations[0]
    return Refused("malformed command", field=first.field, problem=first.problem)


def _product_of(command: Command, uow: UnitOfWork) -> Product | Refused:
    if command.batch is not None:
        product = uow.products.get_by_batchref(command.batch)
        return product or Refused("unknown batchref", field="batchref", batchref=command.batch)
    [sku] = command.skus
    return uow.products.get(sku) or Refused("unknown sku", field="sku", sku=sku)


def _line(
    wanted: commands.Allocate | commands.Reserve | commands.Wanted,
    orderid: str,
    customer: str | None,
) -> OrderLine:
    return OrderLine(
        orderid,
        wanted.sku,
        wanted.qty,
        customer,
        wanted.split,
        wanted.priority,
        wanted.not_before,
        wanted.fresh_days,
    )


def _unknown_order(orderid: str) -> Refused:
    return Refused("unknown order", field="orderid", orderid=orderid)


def _reserved_products(orderid: str, uow: UnitOfWork) -> list[Product]:
    """The products of which the order has a reservation."""
    return [each for each in uow.products.of_order(orderid) if each.reserved_until(orderid)]


def _no_reservation(orderid: str) -> Refused:
    return Refused("no reservation", field="orderid", orderid=orderid)
