"""The pages for people, as a browser without a script gets them."""

import re
from collections.abc import Callable
from datetime import timedelta

import pytest
from bs4 import BeautifulSoup, Tag
from sqlalchemy import Engine, select

from allocation.adapters.sql.api_keys import ApiKeys
from allocation.adapters.sql.tables import commands
from allocation.domain.commands import (
    Allocate,
    BlockBatch,
    ChangeBestBefore,
    ChangeLineQuantity,
    ChangePriority,
    Command,
    CreateBatch,
    CreateProduct,
    Dispatch,
    ExpireBatch,
    MarkOverdue,
    Receive,
    ReturnGoods,
    UnblockBatch,
)
from allocation.entrypoints.api.pages import forms
from tests.api.browsing import SHIP, TODAY, Browser, batch, line, page_of, rows, text
from tests.api.conftest import Worker

KEY = "a key with all rights"
WRITES = re.compile("^/(new-batch|batches/[^/]+/|orders/[^/]+/(cancel|lines/))")
"""Addresses of forms."""


def test_products_are_shown_with_their_figures(visitor: Browser, shop: Callable[..., None]) -> None:
    """Those that lines wait for first."""
    shop(
        batch("b-1", "BED", 2000),
        batch("b-2", "BED", 5, SHIP),
        batch("b-3", "BED", 1, TODAY - timedelta(days=1)),
        batch("d-1", "DESK", 1),
        line("order-1", "BED", 3),
        line("order-2", "DESK", 4),
    )

    page = visitor.get("/")

    assert rows(page, "Products") == [
        ["DESK", "1", "0", "1", "4 in 1 line", "none"],
        [
            "BED",
            "2 000",
            "3",
            "2 003",
            "0",
            f"{SHIP.day} {SHIP:%B %Y} (in 9 days) 1 overdue",
        ],
    ]


def test_the_list_goes_on_by_a_link_and_keeps_its_filter(
    visitor: Browser, shop: Callable[..., None]
) -> None:
    """Fifty on a page; the sheet has all that fit."""
    shop(*(batch(f"b-{number}", f"CHAIR-{number:03}", 1) for number in range(60)))
    shop(batch("t-1", "TABLE", 1))

    first = visitor.get("/?q=chair")
    link = first.find("a", rel="next")
    assert isinstance(link, Tag)
    second = visitor.get(str(link["href"]))
    sheet = visitor.sheet("/products.csv?q=chair")

    shown = [row[0] for page in (first, second) for row in rows(page, "Products")]
    assert shown == [f"CHAIR-{number:03}" for number in range(60)]
    assert [row[0] for row in sheet[1:]] == shown
    assert second.find("a", rel="next") is None


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/", "There is no stock yet."),
        ("/?q=x", "There are no products yet."),
        ("/orders", "Find an order by its whole id"),
        ("/orders?orderid=nope", "There is no order nope"),
    ],
)
def test_an_empty_page_says_what_to_do(visitor: Browser, path: str, said: str) -> None:
    """Nothing is there yet."""
    assert said in text(visitor.get(path).find(class_="empty"))


def test_a_filter_that_nothing_fits_leads_back_to_all(
    visitor: Browser, shop: Callable[..., None]
) -> None:
    """By a link, and says what it looked for."""
    shop(batch("b-1", "BED", 2))

    by_name = visitor.get("/?q=zebra").find(class_="empty")
    by_trouble = visitor.get("/?trouble=1").find(class_="empty")

    assert text(by_name) == "No product matches: no sku contains “zebra”. Show all products"
    assert text(by_trouble) == "No product matches: no line waits for one. Show all products"


def test_a_product_shows_its_batches_as_bars_its_queue_and_its_moves(
    visitor: Browser, shop: Callable[..., None]
) -> None:
    """A bar is as long as the batch, and filled as far as it is promised."""
    shop(batch("b-1", "BED", 5), batch("b-2", "BED", 20, SHIP))
    shop(line("order-1", "BED", 5), line("order-2", "BED", 8), line("order-3", "BED", 30))

    page = visitor.get("/products/BED")

    assert rows(page, "Batches of BED") == [
        ["b-2", f"{SHIP.day} {SHIP:%B %Y} (in 9 days)", "", "8", "12", "20"],
        ["b-1", "on the shelf", "", "5", "0", "5"],
    ]
    bars = [
        (bar["aria-label"], [rect["width"] for rect in bar.find_all("rect")])
        for bar in page.find_all("svg", class_="bar")
    ]
    assert bars == [
        ("8 promised, 12 free", ["40.00", "60.00"]),
        ("5 promised, 0 free", ["25.00", "0.00"]),
    ]
    assert rows(page, "Lines that wait") == [["order-3", "30"]]
    moves = page.find("ol", class_="moves")
    assert isinstance(moves, Tag)
    told = [text(move.p) for move in moves.find_all("li", recursive=False)]
    assert told == [
        "30 pieces for order order-3 wait: no batch can serve them",
        f"8 pieces promised to order order-2 from batch b-2, which arrives {SHIP.day} {SHIP:%B %Y}",
        "5 pieces promised to order order-1 from batch b-1",
        f"batch b-2 added: 20 pieces, arriving {SHIP.day} {SHIP:%B %Y}",
        "batch b-1 added: 5 pieces, on the shelf",
    ]


def test_a_product_says_by_which_rules_its_lines_are_served(
    visitor: Browser, shop: Callable[..., None]
) -> None:
    shop(batch("b-1", "BED", 5))
    rules = {"strategy": "fewest_open", "waiting": "in_order", "improve": False}
    assert visitor.client.put("/v1/products/BED/strategy", json=rules).status_code == 202
    shop()

    page = visitor.get("/products/BED")

    assert text(page.find("p", class_="hint")).endswith(
        "in the order in which they serve: fewest open"
        " · nothing is served past an older or more urgent line that waits"
        " · promises stay when earlier stock comes"
    )


def test_a_product_shows_all_its_batches_page_by_page_and_in_the_sheet(
    visitor: Browser, shop: Callable[..., None]
) -> None:
    """Also the one that holds nothing any more: it comes last."""
    shop(*(batch(f"b-{number:02}", "BED", 1) for number in range(60)))
    assert visitor.client.patch("/v1/batches/b-00", json={"qty": 0}).status_code == 202
    shop()

    first = visitor.get("/products/BED")
    link = first.find("a", rel="next")
    assert isinstance(link, Tag)
    second = visitor.get(str(link["href"]))
    sheet = visitor.sheet("/products/BED/batches.csv")

    shown = [row[0] for page in (first, second) for row in rows(page, "Batches of BED")]
    assert shown == [f"b-{number:02}" for number in [*range(1, 60), 0]]
    assert [row[0] for row in sheet[1:]] == shown


def test_a_move_says_why(visitor: Browser, shop: Callable[..., None]) -> None:
    """What it was chosen from, in order, and why the others were passed over."""
    shop(batch("b-1", "BED", 5), batch("b-2", "BED", 20, SHIP), line("order-1", "BED", 8))

    why = visitor.get("/orders/order-1").find("details")

    assert text(why) == (
        "Why? Decided by allocation.allocate . 2 batches had free stock:"
        " b-1, on the shelf: passed over: 5 free, 8 wanted"
        f" b-2, {SHIP.day} {SHIP:%B %Y}: chosen: the first in the order of preference that fits"
    )


def test_every_event_is_told_in_a_sentence(visitor: Browser, shop: Callable[..., None]) -> None:
    """None is shown by its bare name."""
    client = visitor.client
    shop(batch("b-1", "BED", 5), batch("b-2", "BED", 20, SHIP), line("order-1", "BED", 4))
    shop(("/v1/reservations", {"orderid": "basket", "sku": "BED", "qty": 2, "ttl": 60}))
    for ask in (
        lambda: client.delete("/v1/reservations/basket"),
        lambda: client.put("/v1/batches/b-2/eta", json={"eta": str(TODAY)}),
        lambda: client.patch("/v1/batches/b-1", json={"qty": 3}),
        lambda: client.post("/v1/batches/b-2/write-offs", json={"qty": 1, "reason": "wet"}),
        lambda: client.put("/v1/products/BED/strategy", json={"strategy": "fewest_open"}),
        lambda: client.delete("/v1/allocations/order-1/BED"),
    ):
        assert ask().status_code == 202
        shop()

    moves = visitor.get("/products/BED").find("ol", class_="moves")

    assert isinstance(moves, Tag)
    sentences = [text(move.p) for move in moves.find_all("li", recursive=False)]
    day = f"{TODAY.day} {TODAY:%B %Y}"
    assert sentences[:4] == [
        "4 pieces no longer promised to order order-1 from batch b-2",
        "batches now serve in the order fewest open",
        "batch b-2 now has 19 pieces",
        "1 piece of batch b-2 written off: wet",
    ]
    assert f"batch b-2 now arrives on another day: {day}" in sentences
    assert "batch b-1 now has 3 pieces" in sentences
    assert any(each.startswith("2 pieces reserved for order basket from") for each in sentences)
    assert "2 pieces no longer reserved for order basket: the caller released it" in sentences


def test_the_events_of_changes_are_told_in_sentences(visitor: Browser, idle_worker: Worker) -> None:
    day = TODAY - timedelta(days=2)
    asked: list[Command] = [
        CreateProduct("BED", "first_to_expire"),
        CreateBatch("b-1", "BED", 5),
        CreateBatch("b-2", "BED", 5, day),
        Receive("b-1", 1),
        BlockBatch("b-1", "recall"),
        UnblockBatch("b-1"),
        Allocate("order-1", "BED", 3),
        ChangeLineQuantity("order-1", "BED", 4),
        ChangePriority("order-1", 2, "BED"),
        Dispatch("order-1", "BED", qty=3),
        ReturnGoods("order-1", "BED", 1, "b-1", reason="too soft"),
        ReturnGoods("order-1", "BED", 1, "b-1", usable=False),
        MarkOverdue("b-2", day),
        ChangeBestBefore("b-1", day),
        ExpireBatch("b-1", day),
    ]
    for command in asked:
        idle_worker.decide(command)

    moves = visitor.get("/products/BED").find("ol", class_="moves")

    assert isinstance(moves, Tag)
    told = {text(move.p) for move in moves.find_all("li", recursive=False)}
    written = f"{day.day} {day:%B %Y}"
    assert {
        "product added before its first batch; batches serve in the order first to expire",
        "1 piece added to batch b-1",
        "batch b-1 blocked: recall",
        "batch b-1 no longer blocked",
        "order order-1 now wants 4 pieces, not 3",
        "order order-1 now has priority 2",
        "3 pieces from batch b-1 shipped for order order-1 ; 1 piece still promised",
        "1 piece of order order-1 came back to batch b-1: too soft",
        "1 piece of order order-1 came back, not usable",
        f"batch b-2 overdue: it has not arrived on {written}",
        f"batch b-1 now good until {written}",
        f"batch b-1 expired with 4 pieces: it was good until {written}",
    } - told == set()


def test_an_order_is_found_by_its_id(visitor: Browser, shop: Callable[..., None]) -> None:
    """Each line with its promise; spaces around the id do no harm."""
    shop(batch("b-1", "BED", 5), batch("d-1", "DESK", 1, SHIP))
    shop(line("order 1", "BED", 5), line("order 1", "DESK", 1), line("order 1", "DESK-2", 1))

    page = visitor.get("/orders?orderid=+order+1+")

    assert text(page.h1) == "Order order 1"
    assert rows(page, "Lines of order order 1") == [
        ["BED", "5", "allocated", "b-1", "on the shelf", "Quantity of BED Priority of BED"],
        [
            *("DESK", "1", "allocated", "d-1", f"{SHIP.day} {SHIP:%B %Y} (in 9 days)"),
            "Quantity of DESK Priority of DESK",
        ],
    ]


def test_an_order_that_was_given_up_keeps_its_history(
    visitor: Browser, shop: Callable[..., None]
) -> None:
    """It has no line any more."""
    shop(batch("b-1", "BED", 5), line("order-1", "BED", 5))
    visitor.client.delete("/v1/allocations/order-1/BED")
    shop()

    page = visitor.get("/orders?orderid=order-1")

    assert text(page.find(class_="empty")) == "All lines of this order were cancelled."
    assert "5 pieces no longer promised to order order-1 from batch b-1" in text(page)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/products/NOPE", "There is no product with the sku NOPE."),
        ("/orders/nope", "The order nope has no lines and no stored history."),
        ("/batches/nope", "There is no batch with the reference nope."),
    ],
)
def test_what_is_not_there_is_said_on_apage_of(visitor: Browser, path: str, said: str) -> None:
    """404."""
    assert said in text(visitor.get(path, 404).main)


@pytest.mark.usefixtures("worker")
def test_a_batch_is_added_by_a_form(visitor: Browser) -> None:
    """The page that follows says so, and shows it."""
    form = visitor.get("/new-batch?sku=BED")

    sent = visitor.send(form, "/new-batch", batchref="b-1", qty="7", eta=str(SHIP))
    page = visitor.get(sent.headers["Location"])

    assert sent.status_code == 303
    assert text(page.find(class_="notice")) == "The batch b-1 was added."
    assert [row[0] for row in rows(page, "Batches of BED")] == ["b-1"]


@pytest.mark.usefixtures("worker")
def test_white_space_around_what_is_typed_into_a_form_is_dropped(visitor: Browser) -> None:
    typed = {"batchref": "\u00a0b-1\t", "sku": " BED ", "qty": " 7 ", "eta": f"{SHIP} "}

    sent = visitor.send(visitor.get("/new-batch"), "/new-batch", **typed)

    page = visitor.get(sent.headers["Location"])
    assert [row[0] for row in rows(page, "Batches of BED")] == ["b-1"]


@pytest.mark.usefixtures("worker")
def test_a_form_that_is_sent_twice_takes_effect_once(visitor: Browser, engine: Engine) -> None:
    """As by an impatient click."""
    form = visitor.get("/new-batch")
    typed = {"batchref": "b-1", "sku": "BED", "qty": "7"}

    answers = [visitor.send(form, "/new-batch", **typed) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [303, 303]
    with engine.connect() as connection:
        names = connection.scalars(select(commands.c.name)).all()
    assert names.count("allocation.create_batch") == 1


def test_a_form_that_can_t_be_taken_comes_back_with_what_is_wrong(visitor: Browser) -> None:
    """Beside each field; what was typed is kept."""
    form = visitor.get("/new-batch")

    sent = visitor.send(
        form,
        "/new-batch",
        batchref="b\u200b1",
        sku="",
        qty="many",
        eta="soon",
        best_before="2031-01-31",
    )
    page = page_of(sent, 422)

    wrong = {
        str(each["name"]): text(page.find(id=str(each["aria-describedby"])))
        for each in page.find_all("input", attrs={"aria-invalid": "true"})
    }
    typed = {str(each["name"]): each["value"] for each in page.find_all("input")}
    assert wrong == {
        "batchref": "This has an invisible character U+200B.",
        "sku": "This field is required.",
        "qty": "Write a whole number from 1 to 2 147 483 647.",
        "eta": "Write a day like 2030-01-31, or leave the field empty.",
    }
    assert text(page.find(role="alert")) == "Nothing was saved: correct the fields below."
    assert [typed[name] for name in ("batchref", "qty", "eta", "best_before")] == [
        *("b\u200b1", "many", "soon", "2031-01-31"),
    ]


@pytest.mark.usefixtures("worker")
def test_a_refusal_is_said_on_the_form_and_can_be_mended(visitor: Browser) -> None:
    """Sent again it is another command."""
    for number, qty in ((1, "7"), (2, "5")):
        sent = visitor.send(
            visitor.get("/new-batch"), "/new-batch", batchref="b-1", sku=f"BED-{number}", qty=qty
        )
    refused = page_of(sent, 409)

    mended = visitor.send(refused, "/new-batch", batchref="b-2")

    assert text(refused.find(id="batchref-hint")) == (
        "Batch b-1 already exists; choose another reference."
    )
    assert "batchref taken" not in text(refused)
    typed = {str(each["name"]): each["value"] for each in refused.find_all("input")}
    assert (typed["batchref"], typed["sku"], typed["qty"]) == ("b-1", "BED-2", "5")
    assert mended.status_code == 303


def test_a_batch_of_a_new_product_shows_how_its_command_stands_while_no_worker_runs(
    visitor: Browser, shop: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same address shows the product, once the batch is on the books."""
    monkeypatch.setattr(forms, "TIMEOUT", 0)

    form = visitor.get("/new-batch")
    sent = visitor.send(form, "/new-batch", batchref="b-1", sku="NEW", qty="7")
    before = visitor.get(sent.headers["Location"])
    shop()
    after = visitor.get(sent.headers["Location"])

    assert text(before.h1) == "NEW"
    notice = before.find(class_="notice")
    assert text(notice) == "Accepted. The command waits for a worker to decide it. Look again"
    assert isinstance(notice, Tag)
    assert notice["hx-trigger"] == "load delay:2s"
    assert text(after.find(class_="notice")) == "The batch b-1 was added."
    assert [row[0] for row in rows(after, "Batches of NEW")] == ["b-1"]


def test_a_command_that_is_refused_later_leads_back_to_its_form(
    visitor: Browser, shop: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    shop(batch("b-1", "BED", 5))
    monkeypatch.setattr(forms, "TIMEOUT", 0)

    typed = {"batchref": "b-1", "sku": "NEW", "qty": "7", "eta": str(SHIP)}
    sent = visitor.send(visitor.get("/new-batch"), "/new-batch", **typed)
    shop()
    notice = visitor.get(sent.headers["Location"]).find(class_="notice")

    assert text(notice) == "Batch b-1 already exists; choose another reference. Back to the form"
    assert isinstance(notice, Tag)
    assert notice.a is not None
    form = visitor.get(str(notice.a["href"]))
    shown = {str(each["name"]): each["value"] for each in form.find_all("input")}
    assert {name: shown[name] for name in typed} == typed


def test_a_product_that_no_command_names_is_still_not_found(visitor: Browser) -> None:
    visitor.get("/products/NEW?command=0e3ad35e-8c30-4d0e-9d0a-5c2a3f6b7e11", 404)


@pytest.mark.parametrize(
    ("path", "typed"),
    [
        ("/new-batch", {"batchref": "b-9", "sku": "A & B", "qty": "7", "eta": str(SHIP)}),
        ("/batches/b-1/quantity", {"qty": "9"}),
    ],
)
def test_what_was_typed_survives_a_form_that_is_out_of_date(
    path: str, typed: dict[str, str], visitor: Browser, shop: Callable[..., None]
) -> None:
    """The page of the error leads back to the form, filled in."""
    shop(batch("b-1", "BED", 5))

    refused = page_of(visitor.client.post(path, data=typed | {"csrf_token": "old"}), 400)
    [back] = refused.find_all("a", string="Back to the form with your input")
    form = visitor.get(str(back["href"]))

    shown = {str(each["name"]): each["value"] for each in form.find_all("input")}
    assert {name: shown[name] for name in typed} == typed


def test_what_was_typed_survives_the_end_of_the_session(
    browser_of: Callable[..., Browser], shop: Callable[..., None]
) -> None:
    """The form to log in leads back to the form that was sent."""
    shop(batch("b-1", "BED", 5))
    visitor = browser_of(api_key=KEY)

    sent = visitor.client.post("/batches/b-1/quantity", data={"qty": "9"})

    assert (sent.status_code, sent.headers["Location"]) == (
        303,
        "/login?next=/batches/b-1/quantity%3Fqty%3D9",
    )


def log_in(visitor: Browser, key: str) -> Browser:
    """The same visitor, logged in with the key."""
    assert visitor.send(visitor.get("/login"), "/login", key=key).status_code == 303
    return visitor


def test_who_may_only_read_sees_no_forms(
    browser_of: Callable[..., Browser], shop: Callable[..., None], engine: Engine
) -> None:
    shop(batch("b-1", "BED", 5), line("order-1", "BED", 9))
    reading = log_in(browser_of(), ApiKeys(engine).create("look", ["read"])[1])
    writing = log_in(browser_of(), ApiKeys(engine).create("shop", ["read", "write"])[1])
    paths = ("/", "/products/BED", "/batches/b-1", "/orders/order-1", "/operations")

    def ways_to_write(visitor: Browser, path: str) -> list[str]:
        page = visitor.get(path)
        forms = [str(each["action"]) for each in page.find_all("form", method="post")]
        links = [str(each["href"]) for each in page.find_all("a", href=WRITES)]
        return [each for each in forms + links if each != "/logout"]

    assert [ways_to_write(reading, path) for path in paths] == [[]] * 5
    assert [ways_to_write(writing, path) for path in paths] == [
        ["/new-batch"],
        ["/new-batch?sku=BED"],
        [
            f"/batches/b-1/{slug}"
            for slug in ("receive", "write-off", "quantity", "eta", "best-before", "block")
        ],
        [
            "/orders/order-1/cancel",
            "/orders/order-1/lines/BED/quantity",
            "/orders/order-1/lines/BED/priority",
        ],
        [],
    ]
    for path in ("/new-batch", "/batches/b-1/block", "/orders/order-1/cancel"):
        refused = reading.get(path, 403)
        assert "This request requires a key with the scope write." in text(refused.main)


@pytest.mark.parametrize(
    ("path", "stream"),
    [
        ("/", "/stream"),
        ("/products/BED", "/stream?sku=BED"),
        ("/batches/b-1", "/stream?sku=BED"),
        ("/orders/order-1", "/stream?orderid=order-1"),
        ("/operations", "/stream"),
        ("/operations/dead-letters", "/stream"),
    ],
)
def test_a_page_that_shows_what_changes_is_live_and_says_so_at_its_top(
    path: str, stream: str, visitor: Browser, shop: Callable[..., None]
) -> None:
    """Forms are outside of what is fetched again: what is typed meanwhile stays."""
    shop(batch("b-1", "BED", 5), line("order-1", "BED", 2))

    page = visitor.get(path)

    state, live = page.find(id="live-state"), page.find(id="live")
    assert page.body is not None
    assert page.body["data-stream"] == stream
    assert isinstance(state, Tag)
    assert isinstance(live, Tag)
    assert (state["role"], state["aria-live"]) == ("status", "polite")
    assert page.main is not None
    assert page.main in state.find_all_next("main")
    assert live.find("form") is None


def test_an_order_shows_its_customer_and_a_split_line_as_one_with_parts(
    visitor: Browser, shop: Callable[..., None]
) -> None:
    shop(batch("b-1", "BED", 5), batch("b-2", "BED", 4, SHIP), batch("d-1", "DESK", 3))
    shop(
        (
            "/v1/allocations",
            {"orderid": "order-1", "sku": "BED", "qty": 11, "split": True, "customer": "Ada & Co"},
        ),
        line("order-1", "DESK", 3),
    )

    page = visitor.get("/orders/order-1")

    assert "For customer Ada & Co" in text(page.find(id="live"))
    assert rows(page, "Lines of order order-1") == [
        ["BED", "11", "in parts", "3 parts", "Quantity of BED Priority of BED"],
        ["part 0 of BED", "2", "waiting", "none yet", "when stock fits", ""],
        ["part 1 of BED", "5", "allocated", "b-1", "on the shelf", ""],
        ["part 2 of BED", "4", "allocated", "b-2", f"{SHIP.day} {SHIP:%B %Y} (in 9 days)", ""],
        ["DESK", "3", "allocated", "d-1", "on the shelf", "Quantity of DESK Priority of DESK"],
    ]


def test_a_sheet_has_no_formulas(visitor: Browser, shop: Callable[..., None]) -> None:
    """What strangers chose as an id is text to a spreadsheet."""
    shop(batch("b-1", "BED", 5), line("=cmd|' -C calc'!A0", "BED", 9))

    assert visitor.sheet("/products/BED/waiting.csv") == [
        ["orderid", "part", "qty", "customer"],
        ["'=cmd|' -C calc'!A0", "0", "9", ""],
    ]


def test_each_table_of_a_product_is_to_be_had_as_a_sheet(
    visitor: Browser, shop: Callable[..., None]
) -> None:
    """With plain days and numbers."""
    shop(batch("b-1", "BED", 5000), batch("b-2", "BED", 5, SHIP), line("order-1", "BED", 9))

    stock = visitor.sheet("/products/BED/batches.csv")
    moves = visitor.sheet("/products/BED/moves.csv")
    order = visitor.sheet("/orders/order-1/lines.csv")

    assert stock[1:] == [
        ["b-1", "5000", "9", "4991", "", ""],
        ["b-2", "5", "0", "5", str(SHIP), ""],
    ]
    assert [row[:1] + row[2:] for row in moves[1:]] == [
        ["3", "allocation.allocated.v1", "order-1", "9", "b-1", "", "allocation.allocate"],
        ["2", "allocation.batch_created.v1", "", "5", "b-2", str(SHIP), "allocation.create_batch"],
        ["1", "allocation.batch_created.v1", "", "5000", "b-1", "", "allocation.create_batch"],
    ]
    assert order[1:] == [["BED", "9", "allocated", "b-1", "", ""]]


def test_what_strangers_sent_is_text_on_the_pages(
    visitor: Browser, shop: Callable[..., None]
) -> None:
    """Not markup."""
    shop(batch("b-1", "BED", 5), line("<script>alert(1)<!--", "BED", 2))

    page = visitor.get("/products/BED")

    assert "order <script>alert(1)<!--" in text(page.find("ol", class_="moves"))
    assert [script.get("src") for script in page.find_all("script")] == [
        "/assets/htmx.min.js",
        "/assets/live.js",
    ]


def test_pages_run_and_show_nothing_but_their_own_files(visitor: Browser) -> None:
    """Neither inline nor from elsewhere; each file is there."""
    response = visitor.client.get("/")
    page = BeautifulSoup(response.text, "html.parser")

    policy = response.headers["Content-Security-Policy"]
    files = [each["href"] for each in page.find_all("link")]
    files += [each["src"] for each in page.find_all("script")]
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'; script-src 'self';")
    assert len(files) == 5
    for file in files:
        assert str(file).startswith("/assets/")
        assert visitor.client.get(str(file)).status_code == 200
    assert not page.find_all(style=True)
