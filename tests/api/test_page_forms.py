"""Forms that change batches, lines and orders: each says what it would do, then does it."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from bs4 import BeautifulSoup, Tag
from sqlalchemy import Engine, func, select

from allocation.adapters.sql import tables
from allocation.entrypoints.api.pages import actions, forms, reasons
from tests.api.browsing import SHIP, TODAY, Browser, batch, line, page_of, rows, text
from tests.api.conftest import Worker
from tests.waiting import eventually

SHIP_DAY = f"{SHIP.day} {SHIP:%B %Y}"


def preview_of(visitor: Browser, path: str, status: int = 200, /, **typed: str) -> BeautifulSoup:
    """The page that says what the form would do."""
    return page_of(visitor.send(visitor.get(path), path, **typed), status)


def said(page: BeautifulSoup) -> list[str]:
    """What a preview says: its sentence, then each group of lines with its head."""
    found = page.find("section", class_="preview")
    assert isinstance(found, Tag)
    return [
        text(each).replace(" .", ".").replace(" ;", ";")
        for each in found.find_all(["p", "h3", "li"])
    ]


def confirmed(visitor: Browser, path: str, page: BeautifulSoup) -> BeautifulSoup:
    """The page that follows when the preview is confirmed."""
    sent = visitor.send(page, path)
    assert sent.status_code == 303
    return visitor.get(sent.headers["Location"])


def figures(page: BeautifulSoup) -> str:
    return text(page.find(class_="figures"))


@pytest.fixture
def stock(shop: Callable[..., None]) -> None:
    """Two batches that serve three orders; a fourth waits."""
    shop(
        batch("shelf", "BED", 5),
        batch("ship", "BED", 7, SHIP),
        line("o1", "BED", 3),
        line("o2", "BED", 2),
        line("o3", "BED", 4),
        line("o4", "BED", 6),
    )


@pytest.mark.parametrize(
    ("path", "typed", "says", "notice", "then"),
    [
        pytest.param(
            "/batches/shelf/receive",
            {"qty": "6"},
            [
                "Batch shelf would get 6 pieces, and then have 11.",
                "1 order line would get stock",
                "Order o4: gets 6 pieces of batch shelf, on the shelf",
            ],
            "The pieces were added: the batch shelf now has 11.",
            "Promised 11 Free 0 Quantity 11",
            id="receive",
        ),
        pytest.param(
            "/batches/shelf/write-off",
            {"qty": "1", "reason": "water damage"},
            [
                "Batch shelf would lose 1 piece, water damage, and then have 4.",
                "1 order line would come later",
                "Order o2: gets 2 pieces of batch ship,"
                f" arriving {SHIP_DAY} (in 9 days), instead of 2 pieces of batch shelf,"
                " on the shelf",
            ],
            "The pieces were written off: the batch shelf now has 4.",
            "Promised 3 Free 1 Quantity 4",
            id="write-off",
        ),
        pytest.param(
            "/batches/shelf/quantity",
            {"qty": "0"},
            [
                "Batch shelf would have 0 pieces instead of 5.",
                "1 order line would lose stock, and wait",
                "Order o2: loses 2 pieces of batch shelf",
                "1 order line would come later",
                "Order o1: gets 3 pieces of batch ship,"
                f" arriving {SHIP_DAY} (in 9 days), instead of 3 pieces of batch shelf,"
                " on the shelf",
            ],
            "The batch shelf now has 0 pieces.",
            "Promised 0 Free 0 Quantity 0",
            id="quantity",
        ),
        pytest.param(
            "/batches/ship/eta",
            {"eta": ""},
            [
                f"Batch ship would be on the shelf, instead of {SHIP_DAY}.",
                "1 order line would come earlier",
                f"Order o3: on the shelf, instead of arriving {SHIP_DAY} (in 9 days)",
            ],
            "The change was made.",
            "Promised 4 Free 3 Quantity 7",
            id="eta",
        ),
        pytest.param(
            "/batches/ship/best-before",
            {"best_before": str(SHIP)},
            [
                f"Batch ship would be good until {SHIP_DAY}, instead of never expiring.",
                "No order line gets or loses stock, or another day.",
            ],
            "The change was made.",
            "Promised 4 Free 3 Quantity 7",
            id="best-before",
        ),
        pytest.param(
            "/batches/ship/block",
            {"reason": "recall"},
            [
                "Batch ship would serve no line until it is unblocked: recall.",
                "1 order line would lose stock, and wait",
                "Order o3: loses 4 pieces of batch ship",
            ],
            "The batch ship is blocked.",
            "Promised 0 Free 0 Unusable 7 blocked Quantity 7",
            id="block",
        ),
    ],
)
@pytest.mark.usefixtures("stock", "worker")
def test_a_form_of_a_batch_says_what_it_would_do_then_does_it(
    visitor: Browser, path: str, typed: dict[str, str], says: list[str], notice: str, then: str
) -> None:
    subject = path.rpartition("/")[0]
    before = figures(visitor.get(subject))

    seen = preview_of(visitor, path, **typed)

    assert said(seen) == says
    assert figures(visitor.get(subject)) == before
    done = confirmed(visitor, path, seen)
    assert text(done.find(class_="notice")) == notice
    eventually(lambda: figures(visitor.get(subject)) == then, what="the follow-ups")


@pytest.mark.usefixtures("stock", "worker")
def test_a_batch_is_unblocked_and_serves_again(visitor: Browser) -> None:
    block, unblock = "/batches/ship/block", "/batches/ship/unblock"
    blocked = confirmed(visitor, block, preview_of(visitor, block, reason="recall"))

    seen = preview_of(visitor, unblock)

    offered = [text(each) for each in blocked.select(".choices a")]
    assert offered[-1] == "Unblock the batch"
    assert text(blocked.find(class_="bad")) == "blocked: recall"
    assert said(seen) == [
        "Batch ship would serve lines again.",
        "1 order line would get stock",
        f"Order o3: gets 4 pieces of batch ship, arriving {SHIP_DAY} (in 9 days)",
    ]
    done = confirmed(visitor, unblock, seen)
    assert text(done.find(class_="notice")) == "The batch ship is no longer blocked."


@pytest.mark.parametrize(
    ("path", "typed", "says", "notice", "line_of_order"),
    [
        pytest.param(
            "/orders/o1/lines/BED/quantity",
            {"qty": "1"},
            [
                "The order would want 1 piece of BED instead of 3.",
                "1 order line would give up pieces",
                "Order o1: gives up 2 pieces of batch shelf",
            ],
            "The order now wants 1 pieces.",
            ["BED", "1", "allocated", "shelf", "on the shelf"],
            id="fewer",
        ),
        pytest.param(
            "/orders/o3/lines/BED/quantity",
            {"qty": "7"},
            [
                "The order would want 7 pieces of BED instead of 4.",
                "1 order line would get stock",
                f"Order o3: gets 3 pieces of batch ship, arriving {SHIP_DAY} (in 9 days)",
            ],
            "The order now wants 7 pieces.",
            ["BED", "7", "allocated", "ship", f"{SHIP_DAY} (in 9 days)"],
            id="more",
        ),
        pytest.param(
            "/orders/o4/lines/BED/priority",
            {"priority": "9"},
            [
                "The line would have priority 9 instead of 0.",
                "No order line gets or loses stock, or another day.",
            ],
            "The line now has priority 9.",
            ["BED priority 9", "6", "waiting", "none yet", "when stock fits"],
            id="priority",
        ),
    ],
)
@pytest.mark.usefixtures("stock", "worker")
def test_a_form_of_a_line_says_what_it_would_do_then_does_it(
    visitor: Browser,
    path: str,
    typed: dict[str, str],
    says: list[str],
    notice: str,
    line_of_order: list[str],
) -> None:
    seen = preview_of(visitor, path, **typed)

    assert said(seen) == says
    done = confirmed(visitor, path, seen)
    assert text(done.find(class_="notice")) == notice
    [shown] = rows(done, "Lines of order")
    assert shown[:-1] == line_of_order


@pytest.mark.usefixtures("stock", "worker")
def test_a_whole_order_is_cancelled(visitor: Browser) -> None:
    seen = preview_of(visitor, "/orders/o3/cancel")

    assert said(seen) == [
        "1 line of the order would be given up.",
        "1 order line would give up pieces",
        "Order o3, BED: gives up 4 pieces of batch ship",
        "1 order line would get stock",
        f"Order o4, BED: gets 6 pieces of batch ship, arriving {SHIP_DAY} (in 9 days)",
    ]
    done = confirmed(visitor, "/orders/o3/cancel", seen)
    assert text(done.find(class_="notice")) == "The order was cancelled."
    assert text(done.find(class_="empty")) == "All lines of this order were cancelled."


@pytest.mark.parametrize(
    ("path", "typed", "reason", "facts", "field"),
    [
        (
            *("/batches/shelf/write-off", {"qty": "6", "reason": "wet"}),
            *("quantity too large", {"qty": 6, "known_qty": 5, "batchref": "shelf"}),
            "qty",
        ),
        (
            *("/batches/ship/best-before", {"best_before": str(TODAY)}),
            "expires before arrival",
            {"batchref": "ship", "best_before": str(TODAY), "eta": str(SHIP)},
            "best_before",
        ),
        (
            *("/orders/o1/lines/BED/quantity", {"qty": "30"}),
            *("not enough stock", {"qty": 30, "known_qty": 3, "orderid": "o1", "sku": "BED"}),
            "qty",
        ),
    ],
)
@pytest.mark.usefixtures("stock")
def test_a_refusal_is_told_instead_of_a_preview(
    visitor: Browser,
    path: str,
    typed: dict[str, str],
    reason: str,
    facts: dict[str, Any],
    field: str,
) -> None:
    page = preview_of(visitor, path, 409, **typed)

    assert page.find("section", class_="preview") is None
    assert text(page.find(id=f"{field}-hint")) == reasons.refusal(reason, facts)
    [shown] = page.find_all("input", id=field)
    assert (shown["aria-invalid"], shown["value"]) == ("true", typed[field])


@pytest.mark.usefixtures("stock", "worker")
def test_a_refusal_that_comes_after_the_preview_is_told_too(
    visitor: Browser, shop: Callable[..., None]
) -> None:
    """A write-off is relative: it needs no version, but enough pieces."""
    seen = preview_of(visitor, "/batches/shelf/write-off", qty="5", reason="wet")
    visitor.client.patch("/v1/batches/shelf", json={"qty": 1})
    shop()

    page = page_of(visitor.send(seen, "/batches/shelf/write-off"), 409)

    assert text(page.find(id="qty-hint")) == reasons.refusal(
        "quantity too large", {"qty": 5, "known_qty": 1, "batchref": "shelf"}
    )
    assert figures(page).endswith("Quantity 1")


@pytest.mark.usefixtures("stock", "worker")
def test_what_was_changed_meanwhile_is_shown_with_a_new_preview(
    visitor: Browser, shop: Callable[..., None]
) -> None:
    path = "/batches/shelf/quantity"
    seen = preview_of(visitor, path, qty="3")
    visitor.client.patch("/v1/batches/shelf", json={"qty": 9})
    shop()

    again = page_of(visitor.send(seen, path), 409)

    assert text(again.find(role="alert")) == (
        "Nothing was saved: somebody changed this after you looked at it."
        " Here is what your change would do now."
    )
    assert said(again)[0] == "Batch shelf would have 3 pieces instead of 9."
    done = confirmed(visitor, path, again)
    assert text(done.find(class_="notice")) == "The batch shelf now has 3 pieces."


@pytest.mark.usefixtures("stock", "worker")
def test_a_line_that_was_changed_meanwhile_is_shown_with_a_new_preview(
    visitor: Browser, shop: Callable[..., None]
) -> None:
    path = "/orders/o1/lines/BED/quantity"
    seen = preview_of(visitor, path, qty="2")
    visitor.client.patch("/v1/batches/shelf", json={"qty": 0})
    shop()

    again = page_of(visitor.send(seen, path), 409)

    assert said(again)[2] == "Order o1: gives up 1 piece of batch ship"


@pytest.mark.parametrize(
    ("path", "typed"),
    [
        ("/batches/shelf/quantity", {"qty": "5"}),
        ("/batches/ship/eta", {"eta": str(SHIP)}),
        ("/batches/ship/unblock", {}),
        ("/orders/o1/lines/BED/quantity", {"qty": "3"}),
        ("/orders/o1/lines/BED/priority", {"priority": "0"}),
    ],
)
@pytest.mark.usefixtures("stock")
def test_a_change_that_changes_nothing_is_not_offered(
    visitor: Browser, path: str, typed: dict[str, str]
) -> None:
    page = preview_of(visitor, path, **typed)

    assert text(page.find(class_="notice")) == "Nothing would change: it is so already."
    assert page.find("input", attrs={"name": "confirmed"}) is None


@pytest.mark.usefixtures("stock", "worker")
def test_a_deed_that_is_sent_twice_takes_effect_once(visitor: Browser) -> None:
    seen = preview_of(visitor, "/batches/shelf/receive", qty="1")

    answers = [visitor.send(seen, "/batches/shelf/receive") for _ in range(2)]

    assert [answer.status_code for answer in answers] == [303, 303]
    assert figures(visitor.get("/batches/shelf")).endswith("Quantity 6")


@pytest.mark.parametrize("action", actions.ACTIONS, ids=lambda action: action.name)
@pytest.mark.usefixtures("stock")
def test_neither_a_preview_nor_a_deed_is_done_without_the_token(
    action: actions.Action, visitor: Browser, engine: Engine
) -> None:
    """The error's page leads back to the form, filled in."""
    path = f"{action.subject.rule}/{action.slug}"
    for name, value in (("batchref", "shelf"), ("orderid", "o1"), ("sku", "BED")):
        path = path.replace(f"<{name}>", value)
    count = select(func.count()).select_from(tables.commands)
    with engine.connect() as connection:
        before = connection.scalar(count)

    for confirmation in ({}, {"confirmed": "yes"}):
        typed = {each.name: "2" for each in action.inputs} | confirmation
        refused = page_of(visitor.client.post(path, data=typed), 400)
        [back] = refused.find_all("a", string="Back to the form with your input")
        form = visitor.get(str(back["href"]))
        shown = {str(each["name"]): each["value"] for each in form.find_all("input", id=True)}
        assert shown == {each.name: "2" for each in action.inputs}
    with engine.connect() as connection:
        assert connection.scalar(count) == before


@pytest.mark.parametrize(
    ("path", "absent"),
    [
        ("/batches/nope/block", "There is no batch with the reference nope."),
        ("/orders/nope/cancel", "The order nope has no lines."),
        ("/orders/o1/lines/NOPE/quantity", "The order o1 has no line of NOPE."),
    ],
)
@pytest.mark.usefixtures("stock")
def test_a_form_of_what_is_not_there_says_so(visitor: Browser, path: str, absent: str) -> None:
    assert absent in text(visitor.get(path, 404).main)


@pytest.mark.usefixtures("stock")
def test_what_was_typed_wrong_comes_back_with_what_to_write(visitor: Browser) -> None:
    page = preview_of(visitor, "/batches/shelf/quantity", 422, qty="-3")

    [field] = page.find_all("input", id="qty")
    assert (field["value"], field["aria-describedby"]) == ("-3", "qty-hint")
    assert text(page.find(id="qty-hint")) == "Write a whole number from 0 to 2 147 483 647."


@pytest.mark.usefixtures("stock")
def test_while_no_worker_decides_a_form_says_that_it_waits(
    visitor: Browser, monkeypatch: pytest.MonkeyPatch, idle_worker: Worker
) -> None:
    """A refusal that comes later leads back to the form."""
    monkeypatch.setattr(forms, "TIMEOUT", 0)
    seen = [preview_of(visitor, "/batches/shelf/quantity", qty=qty) for qty in ("8", "9")]
    sent = [visitor.send(each, "/batches/shelf/quantity") for each in seen]

    waiting = visitor.get(sent[1].headers["Location"])
    idle_worker.decide_all()
    after = visitor.get(sent[1].headers["Location"])

    assert text(waiting.find(class_="notice")).startswith("Accepted. The command waits")
    assert figures(waiting) == "Promised 5 Free 0 Quantity 5"
    notice = after.find(class_="notice")
    assert text(notice).startswith("Somebody changed it meanwhile, so nothing was saved.")
    assert isinstance(notice, Tag)
    assert notice.a is not None
    form = visitor.get(str(notice.a["href"]))
    assert [each["value"] for each in form.find_all("input", id="qty")] == ["9"]


def test_a_preview_of_many_lines_names_the_first_and_counts_the_others(
    visitor: Browser, shop: Callable[..., None]
) -> None:
    many = actions.SHOWN + 5
    shop(batch("shelf", "BED", many), *(line(f"o{n:02}", "BED", 1) for n in range(many)))

    seen = said(preview_of(visitor, "/batches/shelf/block", reason="recall"))

    assert seen[1] == f"{many} order lines would lose stock, and wait"
    assert seen[-1] == "and 5 more"
    assert len(seen) == 2 + actions.SHOWN + 1


def test_batches_say_why_they_serve_no_line_and_count_only_as_unusable(
    visitor: Browser, shop: Callable[..., None]
) -> None:
    past, soon = TODAY - timedelta(days=3), TODAY + timedelta(days=3)
    shop(
        batch("blocked", "BED", 5),
        batch("expired", "BED", 4),
        batch("fresh", "BED", 3),
        batch("late", "BED", 2, past),
    )
    for ref, day in (("expired", past), ("fresh", soon)):
        seen = preview_of(visitor, f"/batches/{ref}/best-before", best_before=str(day))
        assert visitor.send(seen, f"/batches/{ref}/best-before").status_code == 303
    seen = preview_of(visitor, "/batches/blocked/block", reason="recall")
    assert visitor.send(seen, "/batches/blocked/block").status_code == 303
    shop()

    page = visitor.get("/products/BED")

    shown = {row[0]: row[1:] for row in rows(page, "Batches of BED")}

    def written(day: Any) -> str:
        return f"{day.day} {day:%B %Y}"

    assert shown == {
        "blocked": ["on the shelf blocked: recall", "", "0", "0", "5"],
        "expired": [f"on the shelf expired on {written(past)}", "", "0", "0", "4"],
        "fresh": [f"on the shelf expires on {written(soon)}", "", "0", "3", "3"],
        "late": [f"unknown overdue since {written(past)}", "", "0", "2", "2"],
    }
    assert figures(page) == (
        "On hand 3 Promised 0 Available 5 Unusable 9 blocked or expired Waiting 0 in 0 lines"
    )
    assert rows(visitor.get("/"), "Products") == [
        ["BED", "3", "0", "5 9 unusable", "0", "none 1 overdue"],
    ]
