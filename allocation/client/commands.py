"""Every command that a caller may send, as a typed method; `python -m tools.client` writes them.

They follow from the commands of `allocation/contract` and the routes of the API: a test fails when
they differ. What each field means is said in docs/reference/commands.md.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, Literal, NotRequired, TypedDict, Unpack
from uuid import UUID

from allocation.client.messages import Outcome

Day = date | str
"""A date, or its text: YYYY-MM-DD."""


class Options(TypedDict, total=False):
    """What goes with every command.

    `wait`: seconds to wait for its outcome. `idempotency_key`: what makes sending it again
    harmless; without one a new one is made, and kept over the client's own tries.
    """

    wait: float
    idempotency_key: UUID | str | None


class Line(TypedDict):
    """One element of `lines` of `allocation.allocate_order`."""

    sku: str
    qty: int
    split: NotRequired[bool]
    priority: NotRequired[int]
    not_before: NotRequired[Day]
    fresh_days: NotRequired[int]


class Commands(ABC):
    """The commands. Each method returns once Allocation has taken the command.

    `if_match`: the version of the batch, line or product that the caller has seen, as the `ETag` of
    its GET gives it, with or without quotes. If it is another one by then, the command is refused.
    """

    @abstractmethod
    def send(
        self,
        name: str,
        *,
        wait: float = 0.0,
        idempotency_key: UUID | str | None = None,
        **fields: Any,
    ) -> Outcome:
        """Send the command `name`; None says the same as no field."""

    def create_batch(
        self,
        *,
        batchref: str,
        sku: str,
        qty: int,
        eta: Day | None = None,
        best_before: Day | None = None,
        **options: Unpack[Options],
    ) -> Outcome:
        """Add a batch of stock."""
        return self.send(
            "create_batch",
            batchref=batchref,
            sku=sku,
            qty=qty,
            eta=eta,
            best_before=best_before,
            **options,
        )

    def allocate(
        self,
        *,
        orderid: str,
        sku: str,
        qty: int,
        customer: str | None = None,
        split: bool | None = None,
        priority: int | None = None,
        not_before: Day | None = None,
        fresh_days: int | None = None,
        **options: Unpack[Options],
    ) -> Outcome:
        """Allocate stock to one order line."""
        return self.send(
            "allocate",
            orderid=orderid,
            sku=sku,
            qty=qty,
            customer=customer,
            split=split,
            priority=priority,
            not_before=not_before,
            fresh_days=fresh_days,
            **options,
        )

    def reserve(
        self,
        *,
        orderid: str,
        sku: str,
        qty: int,
        ttl: int,
        customer: str | None = None,
        split: bool | None = None,
        priority: int | None = None,
        not_before: Day | None = None,
        fresh_days: int | None = None,
        **options: Unpack[Options],
    ) -> Outcome:
        """Reserve stock for one order line until the reservation is confirmed, released or
        expires.
        """
        return self.send(
            "reserve",
            orderid=orderid,
            sku=sku,
            qty=qty,
            ttl=ttl,
            customer=customer,
            split=split,
            priority=priority,
            not_before=not_before,
            fresh_days=fresh_days,
            **options,
        )

    def allocate_order(
        self,
        *,
        orderid: str,
        lines: Sequence[Line],
        all_or_nothing: bool | None = None,
        ttl: int | None = None,
        customer: str | None = None,
        **options: Unpack[Options],
    ) -> Outcome:
        """Allocate or reserve stock for every line of an order: for each line separately, or for
        all lines or none.
        """
        return self.send(
            "allocate_order",
            orderid=orderid,
            lines=list(lines),
            all_or_nothing=all_or_nothing,
            ttl=ttl,
            customer=customer,
            **options,
        )

    def confirm(
        self, *, orderid: str, all_or_nothing: bool | None = None, **options: Unpack[Options]
    ) -> Outcome:
        """Turn the order's reservations into allocations."""
        return self.send("confirm", orderid=orderid, all_or_nothing=all_or_nothing, **options)

    def extend(self, *, orderid: str, ttl: int, **options: Unpack[Options]) -> Outcome:
        """Extend the order's reservations, counted from now. Each line can be extended once. A
        reservation that already lasts longer stays as it is.
        """
        return self.send("extend", orderid=orderid, ttl=ttl, **options)

    def release(self, *, orderid: str, **options: Unpack[Options]) -> Outcome:
        """Release all reservations of the order."""
        return self.send("release", orderid=orderid, **options)

    def dispatch(
        self,
        *,
        orderid: str,
        sku: str,
        batchref: str | None = None,
        qty: int | None = None,
        **options: Unpack[Options],
    ) -> Outcome:
        """Take allocated goods that are there off the books: the warehouse has shipped them."""
        return self.send(
            "dispatch", orderid=orderid, sku=sku, batchref=batchref, qty=qty, **options
        )

    def return_goods(
        self,
        *,
        orderid: str,
        sku: str,
        qty: int,
        batchref: str,
        usable: bool | None = None,
        reason: str | None = None,
        **options: Unpack[Options],
    ) -> Outcome:
        """Take dispatched pieces of an order line back into a batch."""
        return self.send(
            "return_goods",
            orderid=orderid,
            sku=sku,
            qty=qty,
            batchref=batchref,
            usable=usable,
            reason=reason,
            **options,
        )

    def change_line_quantity(
        self,
        *,
        orderid: str,
        sku: str,
        qty: int,
        if_match: str | None = None,
        **options: Unpack[Options],
    ) -> Outcome:
        """Have an order line want more or fewer pieces; it keeps its age."""
        return self.send(
            "change_line_quantity",
            orderid=orderid,
            sku=sku,
            qty=qty,
            expected_version=_version(if_match),
            **options,
        )

    def change_priority(
        self,
        *,
        orderid: str,
        priority: int,
        sku: str | None = None,
        if_match: str | None = None,
        **options: Unpack[Options],
    ) -> Outcome:
        """Set the priority of every line of an order, or, with a sku, of its line of that
        product.
        """
        return self.send(
            "change_priority",
            orderid=orderid,
            priority=priority,
            sku=sku,
            expected_version=_version(if_match),
            **options,
        )

    def cancel_order(self, *, orderid: str, **options: Unpack[Options]) -> Outcome:
        """Give up every line of an order; what has left stays."""
        return self.send("cancel_order", orderid=orderid, **options)

    def deallocate(
        self, *, orderid: str, sku: str, if_match: str | None = None, **options: Unpack[Options]
    ) -> Outcome:
        """Cancel one order line."""
        return self.send(
            "deallocate", orderid=orderid, sku=sku, expected_version=_version(if_match), **options
        )

    def change_batch_quantity(
        self, *, batchref: str, qty: int, if_match: str | None = None, **options: Unpack[Options]
    ) -> Outcome:
        """Set a batch's quantity, for example after a count, damage or a short shipment."""
        return self.send(
            "change_batch_quantity",
            batchref=batchref,
            qty=qty,
            expected_version=_version(if_match),
            **options,
        )

    def receive(self, *, batchref: str, qty: int, **options: Unpack[Options]) -> Outcome:
        """Add pieces to a batch."""
        return self.send("receive", batchref=batchref, qty=qty, **options)

    def change_batch_eta(
        self,
        *,
        batchref: str,
        eta: Day | None = None,
        if_match: str | None = None,
        **options: Unpack[Options],
    ) -> Outcome:
        """Record that a batch arrives on another day, or that it has arrived."""
        return self.send(
            "change_batch_eta",
            batchref=batchref,
            eta=eta,
            expected_version=_version(if_match),
            **options,
        )

    def change_best_before(
        self,
        *,
        batchref: str,
        best_before: Day | None = None,
        if_match: str | None = None,
        **options: Unpack[Options],
    ) -> Outcome:
        """Correct the day until which a batch is good."""
        return self.send(
            "change_best_before",
            batchref=batchref,
            best_before=best_before,
            expected_version=_version(if_match),
            **options,
        )

    def block_batch(
        self, *, batchref: str, reason: str, if_match: str | None = None, **options: Unpack[Options]
    ) -> Outcome:
        """Have a batch serve no line, such as for a quality hold or a recall; the lines that it
        serves move, or wait.
        """
        return self.send(
            "block_batch",
            batchref=batchref,
            reason=reason,
            expected_version=_version(if_match),
            **options,
        )

    def unblock_batch(
        self, *, batchref: str, if_match: str | None = None, **options: Unpack[Options]
    ) -> Outcome:
        """Have a blocked batch serve lines again."""
        return self.send(
            "unblock_batch", batchref=batchref, expected_version=_version(if_match), **options
        )

    def write_off(
        self, *, batchref: str, qty: int, reason: str, **options: Unpack[Options]
    ) -> Outcome:
        """Remove pieces from a batch that were damaged, lost or stolen."""
        return self.send("write_off", batchref=batchref, qty=qty, reason=reason, **options)

    def choose_strategy(
        self,
        *,
        sku: str,
        strategy: Literal["earliest_first", "first_to_expire", "fewest_open"],
        waiting: Literal["fill", "in_order"] | None = None,
        improve: bool | None = None,
        if_match: str | None = None,
        **options: Unpack[Options],
    ) -> Outcome:
        """Choose the order in which a product's batches serve its lines."""
        return self.send(
            "choose_strategy",
            sku=sku,
            strategy=strategy,
            waiting=waiting,
            improve=improve,
            expected_version=_version(if_match),
            **options,
        )

    def create_product(
        self,
        *,
        sku: str,
        strategy: Literal["earliest_first", "first_to_expire", "fewest_open"] | None = None,
        waiting: Literal["fill", "in_order"] | None = None,
        improve: bool | None = None,
        **options: Unpack[Options],
    ) -> Outcome:
        """Make a product known before its first batch, so that its lines can wait."""
        return self.send(
            "create_product",
            sku=sku,
            strategy=strategy,
            waiting=waiting,
            improve=improve,
            **options,
        )


def _version(if_match: str | None) -> str | None:
    return None if if_match in (None, "*") else if_match.strip('"')


ROUTES: Mapping[str, tuple[str, str]] = {
    "create_batch": ("POST", "/v1/batches"),
    "allocate": ("POST", "/v1/allocations"),
    "reserve": ("POST", "/v1/reservations"),
    "allocate_order": ("POST", "/v1/orders"),
    "confirm": ("POST", "/v1/reservations/{orderid}/confirm"),
    "extend": ("POST", "/v1/reservations/{orderid}/extend"),
    "release": ("DELETE", "/v1/reservations/{orderid}"),
    "dispatch": ("POST", "/v1/allocations/{orderid}/{sku}/dispatches"),
    "return_goods": ("POST", "/v1/allocations/{orderid}/{sku}/returns"),
    "change_line_quantity": ("PATCH", "/v1/allocations/{orderid}/{sku}"),
    "change_priority": ("PATCH", "/v1/allocations/{orderid}/{sku}"),
    "cancel_order": ("DELETE", "/v1/orders/{orderid}"),
    "deallocate": ("DELETE", "/v1/allocations/{orderid}/{sku}"),
    "change_batch_quantity": ("PATCH", "/v1/batches/{batchref}"),
    "receive": ("POST", "/v1/batches/{batchref}/receipts"),
    "change_batch_eta": ("PUT", "/v1/batches/{batchref}/eta"),
    "change_best_before": ("PATCH", "/v1/batches/{batchref}"),
    "block_batch": ("PUT", "/v1/batches/{batchref}/block"),
    "unblock_batch": ("DELETE", "/v1/batches/{batchref}/block"),
    "write_off": ("POST", "/v1/batches/{batchref}/write-offs"),
    "choose_strategy": ("PUT", "/v1/products/{sku}/strategy"),
    "create_product": ("POST", "/v1/products"),
}
"""By command: method and path."""

CHOOSING: Mapping[str, str] = {
    "change_line_quantity": "qty",
    "change_priority": "priority",
    "change_batch_quantity": "qty",
    "change_best_before": "best_before",
}
"""By command that shares its route: the field that says which one is meant, also if it is null."""
