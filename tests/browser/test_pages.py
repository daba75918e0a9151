"""What people do on the pages, in a browser, on the running service."""

import re
import uuid
from functools import partial

import pytest
from axe_playwright_python.sync_playwright import Axe
from kombu import Connection
from playwright.sync_api import Page, expect

from allocation.adapters.rabbitmq import topology
from allocation.entrypoints.worker.app import app
from tests.browser.conftest import Visits
from tests.e2e.conftest import House
from tests.waiting import eventually

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("browser")]

LIVE = "Live: this page updates automatically."


def stock(house: House, sku: str = "LAMP", qty: int = 10) -> None:
    """A batch of so many, called as its sku, on the shelf."""
    body = {"batchref": f"batch-{sku}", "sku": sku, "qty": qty}
    assert house.do("POST", "/v1/batches", body)[0] == 201


def order(house: House, orderid: str, sku: str = "LAMP", qty: int = 1) -> None:
    body = {"orderid": orderid, "sku": sku, "qty": qty}
    assert house.do("POST", "/v1/allocations", body)[0] in (200, 201)


def put_dead_letter(house: House, orderid: str) -> str:
    """A command that nobody could decide, as the worker sets it aside; its id."""
    command_id = str(uuid.uuid4())
    task = app.amqp.as_task_v2(
        command_id, "allocation.allocate", kwargs={"orderid": orderid, "sku": "LAMP", "qty": 1}
    )
    with Connection(house.broker_url) as connection:
        connection.Producer().publish(
            task.body,
            exchange="",
            routing_key=topology.DEAD,
            headers=task.headers | {"x-reason": "failed", "x-error": "OSError: the disk was full"},
            serializer="json",
            **task.properties,
        )
    return command_id


def test_a_batch_added_in_the_page_appears(visits: Visits) -> None:
    """On the page of its product, and in the list."""
    for number, visit in enumerate(visits()):
        page = visit.goto("/")
        page.get_by_role("link", name="Add a batch").first.click()
        page.get_by_label("Reference").fill(f"batch-{number}")
        page.get_by_label("Sku").fill(f"LAMP-{number}")
        page.get_by_label("Pieces").fill("12")
        page.get_by_role("button", name="Add the batch").click()

        expect(page.locator(".notice")).to_have_text(f"The batch batch-{number} was added.")
        expect(page.get_by_role("img", name="0 promised, 12 free")).to_be_visible()
        page.get_by_role("link", name="Products").click()
        expect(page.get_by_role("rowheader", name=f"LAMP-{number}")).to_be_visible()


def test_an_allocation_made_by_the_api_moves_its_bar_without_a_reload(
    visits: Visits, house: House
) -> None:
    """What the reader has opened stays open, and a line that waits shows too."""
    for number, visit in enumerate(visits()):
        sku = f"LAMP-{number}"
        stock(house, sku)
        page = visit.goto(f"/products/{sku}")
        expect(page.locator("#live-state")).to_have_text(LIVE)
        page.evaluate("window.loaded = 'once'")
        page.get_by_text("Why?").click()

        order(house, f"order-{number}-a", sku, 3)
        expect(page.get_by_role("img", name="3 promised, 7 free")).to_be_visible()
        order(house, f"order-{number}-b", sku, 8)

        expect(page.get_by_role("rowheader", name=f"order-{number}-b")).to_be_visible()
        expect(page.get_by_text("Decided by allocation.create_batch")).to_be_visible()
        assert page.evaluate("window.loaded") == "once"


def test_a_batch_is_blocked_after_its_preview(visits: Visits, house: House) -> None:
    """The preview changes nothing; the order that loses its stock is named in it."""
    for number, visit in enumerate(visits()):
        sku, orderid = f"LAMP-{number}", f"order-{number}"
        stock(house, sku)
        order(house, orderid, sku, 3)
        page = visit.goto(f"/batches/batch-{sku}")
        page.get_by_role("link", name="Block the batch").click()
        page.get_by_label("Reason").fill("recall: cracked glass")
        page.get_by_role("button", name="Show what it would do").click()

        seen = page.get_by_role("region", name="What this would do")
        expect(seen).to_contain_text("1 order line would lose stock, and wait")
        expect(seen.get_by_role("listitem")).to_have_text(
            f"Order {orderid}: loses 3 pieces of batch batch-{sku}"
        )
        expect(page.get_by_role("img", name="3 promised, 7 free")).to_be_visible()
        assert _faults(page) == [], visit.look
        assert _too_wide(page) <= 0, visit.look
        page.get_by_role("button", name="Block the batch").click()

        expect(page.locator(".notice")).to_have_text(f"The batch batch-{sku} is blocked.")
        expect(page.get_by_text("blocked: recall: cracked glass")).to_be_visible()
        expect(page.get_by_role("img", name="0 promised, 10 unusable")).to_be_visible()
        expect(page.get_by_role("link", name="Unblock the batch")).to_be_visible()
        page.get_by_role("link", name=sku).click()
        expect(page.get_by_role("rowheader", name=orderid)).to_be_visible()


def test_a_dead_letter_is_replayed(visits: Visits, house: House) -> None:
    """It is seen with its cause, and takes effect."""
    stock(house)
    for number, visit in enumerate(visits()):
        orderid = f"order-{number}"
        command_id = put_dead_letter(house, orderid)
        page = visit.goto("/operations")
        page.get_by_role("link", name="View the dead letters of allocation.dead").click()
        expect(page.get_by_text("OSError: the disk was full", exact=True)).to_be_visible()
        page.get_by_text("Headers and body").click()
        expect(page.locator("pre")).to_contain_text(orderid)

        page.get_by_role("button", name=f"Replay {command_id}").click()

        expect(page.locator(".notice")).to_have_text("1 dead letter was delivered again.")
        eventually(partial(house.knows, orderid), what="the order")
        expect(
            page.get_by_text("There are no dead letters: every message was read and decided.")
        ).to_be_visible()


@pytest.mark.timeout(300)
def test_no_page_has_a_serious_fault_or_is_too_wide(visits: Visits, house: House) -> None:
    """As axe-core finds them; on a phone nothing has to be moved sideways."""
    stock(house)
    order(house, "order-1", qty=4)
    order(house, "order-2", qty=40)
    put_dead_letter(house, "order-3")
    for visit in visits():
        for path in (
            *("/", "/?q=nothing", "/new-batch", "/products/LAMP", "/batches/batch-LAMP"),
            *("/orders", "/orders/order-1", "/operations", "/operations/dead-letters"),
            *("/operations/dead-letters?queue=allocation.dead", "/login", "/docs/events"),
        ):
            page = visit.goto(path)
            page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
            assert _faults(page) == [], f"{path} at {visit.look}"
            assert _too_wide(page) <= 0, f"{path} at {visit.look}"


def test_no_form_has_a_serious_fault_or_is_too_wide(visits: Visits, house: House) -> None:
    stock(house)
    order(house, "order-1", qty=4)
    late = {"batchref": "late", "sku": "LAMP", "qty": 3, "eta": "2020-01-01"}
    assert house.do("POST", "/v1/batches", late | {"best_before": "2020-01-31"})[0] == 201
    reason = {"reason": "an unbroken reason " + "x" * 180}
    assert house.do("PUT", "/v1/batches/late/block", reason)[0] == 200
    for visit in visits():
        for path in (
            *("/batches/late", "/products/LAMP", "/batches/batch-LAMP/write-off"),
            *("/batches/batch-LAMP/eta", "/orders/order-1/cancel"),
            *("/orders/order-1", "/orders/order-1/lines/LAMP/quantity"),
        ):
            page = visit.goto(path)
            assert _faults(page) == [], f"{path} at {visit.look}"
            assert _too_wide(page) <= 0, f"{path} at {visit.look}"


def test_who_is_logged_in_has_the_menu_in_one_line_and_tries_the_api_out(
    visits: Visits, house: House
) -> None:
    """The page of the API has the reader's colours, and a way back."""
    made = house.run("-m", "allocation", "keys", "create", "me", "--yes").logs()
    [key] = re.findall(r"alloc_\S+", made)
    for visit in visits("404"):
        if visit.look not in ("390-dark", "1440-light"):
            continue
        page = visit.goto("/login")
        eventually(partial(_asks_for_a_key, page), what="a key asked for")
        page.get_by_label("API key").fill(key)
        page.get_by_role("button", name="Log in").click()
        links = page.get_by_role("navigation", name="Site").get_by_role("link")
        expect(links).to_have_text(["Products", "Orders", "Operations", "API docs"])
        heights = {links.nth(number).bounding_box()["y"] for number in range(4)}  # type: ignore[index]
        assert len(heights) == 1, visit.look
        assert _too_wide(page) <= 0, visit.look

        page.get_by_role("link", name="API docs").click()
        operation = page.locator("#operations-products-get_v1_products_sku")
        operation.get_by_role("button").first.click()
        operation.get_by_role("button", name="Try it out").click()
        operation.get_by_placeholder("sku").fill("NONE-SUCH")
        operation.get_by_role("button", name="Execute").click()

        answer = operation.locator(".live-responses-table")
        expect(answer).to_contain_text("There is no product with this sku.")
        assert _too_wide(page) <= 0, visit.look
        is_dark = page.evaluate("document.documentElement.classList.contains('dark-mode')")
        assert is_dark == ("dark" in visit.look)
        links.first.click()
        expect(page).to_have_url(f"{visit.home}/")


def test_a_batch_is_live_and_what_is_typed_into_its_form_stays(
    visits: Visits, house: House
) -> None:
    stock(house)
    visit = next(visits())
    page = visit.goto("/batches/batch-LAMP/quantity")
    expect(page.locator("#live-state")).to_have_text(LIVE)
    page.get_by_label("Pieces").fill("7")

    order(house, "order-1", qty=3)

    expect(page.get_by_role("img", name="3 promised, 7 free")).to_be_visible()
    expect(page.get_by_label("Pieces")).to_have_value("7")


def test_dead_letters_appear_and_go_without_a_reload(visits: Visits, house: House) -> None:
    """What the reader has opened stays open, and so does the place of the keyboard."""
    stock(house)
    visit = next(visits())
    page = visit.goto("/operations/dead-letters")
    expect(
        page.get_by_text("There are no dead letters: every message was read and decided.")
    ).to_be_visible()

    put_dead_letter(house, "order-1")
    expect(page.get_by_role("cell", name="allocation.dead")).to_be_visible(timeout=15_000)
    page.get_by_role("link", name="Every attempt failed").click()
    page.get_by_text("Headers and body").click()
    put_dead_letter(house, "order-2")

    expect(page.get_by_role("article")).to_have_count(2, timeout=15_000)
    expect(page.locator("pre").first).to_be_visible()
    expect(page.get_by_text("Headers and body").first).to_be_focused()


def test_a_batch_of_a_new_product_shows_once_a_worker_runs(visits: Visits, house: House) -> None:
    """Until then the page shows how the command stands."""
    house.processes["worker"].kill()
    visit = next(visits())
    page = visit.goto("/new-batch")
    page.get_by_label("Reference").fill("batch-1")
    page.get_by_label("Sku").fill("NEW")
    page.get_by_label("Pieces").fill("0")
    page.get_by_role("button", name="Add the batch").click()
    expect(page.get_by_label("Pieces")).to_be_focused()  # it takes 1 at least
    page.get_by_label("Pieces").fill("12")
    page.get_by_role("button", name="Add the batch").click()
    expect(page.locator(".notice")).to_contain_text("Accepted.", timeout=15_000)

    house.processes["worker"].start()

    expect(page.locator(".notice")).to_have_text("The batch batch-1 was added.", timeout=40_000)
    expect(page.get_by_role("img", name="0 promised, 12 free")).to_be_visible()


def test_the_pages_are_used_by_keyboard(visits: Visits, house: House) -> None:
    """The first stop skips to the content; the filter and a product open by Enter."""
    stock(house)
    for visit in visits():
        page = visit.goto("/")
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        page.get_by_label("Sku contains").focus()
        page.keyboard.type("lam")
        page.keyboard.press("Enter")
        expect(page).to_have_url(f"{visit.home}/?q=lam")
        page.get_by_role("link", name="LAMP").focus()
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="LAMP")).to_be_visible()


def test_a_page_catches_up_after_the_api_was_away(visits: Visits, house: House) -> None:
    """It says that it is not live meanwhile, and shows what it missed."""
    stock(house)
    visit = next(visits("net::ERR_", "htmx:"))
    page = visit.goto("/products/LAMP")
    expect(page.locator("#live-state")).to_have_text(LIVE)

    house.processes["api"].kill()
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    page.set_viewport_size({"width": 390, "height": 300})
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    expect(page.locator("#live-state")).to_have_text("Not live: reconnecting.")
    expect(page.locator("#live-state")).to_be_in_viewport(ratio=1)
    house.processes["api"].start()
    house.processes["api"].wait_for_log("ready at", within=40)
    order(house, "order-1", qty=2)

    expect(page.locator("#live-state")).to_have_text(LIVE, timeout=20_000)
    expect(page.get_by_role("img", name="2 promised, 8 free")).to_be_visible()


def _too_wide(page: Page) -> int:
    """By how many pixels the page has to be moved sideways."""
    return int(page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))


def _asks_for_a_key(page: Page) -> bool:
    """Whether the API has noticed that there is one: without, the form leads on at once."""
    page.goto(page.url.partition("?")[0].rstrip("/").removesuffix("/login") + "/login")
    return page.get_by_label("API key").count() == 1


def _faults(page: Page) -> list[str]:
    found = Axe().run(page)
    return [
        f"{each['id']} ({each['impact']}): {[node['html'] for node in each['nodes']]}"
        for each in found.response["violations"]
        if each["impact"] in ("serious", "critical")
    ]
