"""`make screenshots`: takes the pictures of docs/img from a running service of its own."""

import json
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright

from tests.servers.ports import free_ports
from tests.servers.processes import ROOT, Process
from tests.servers.programs import find_chromium

PICTURES = ROOT / "docs" / "img"

PAGES = {
    "products": "/",
    "product": "/products/LAMP",
    "order": "/orders/order-1007",
    "operations": "/operations",
}


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="allocation-screenshots-") as folder,
        _service(Path(folder)) as home,
        sync_playwright() as playwright,
    ):
        print("Playing a day of the shop ...", flush=True)
        _play(home)
        browser = playwright.chromium.launch(
            executable_path=str(find_chromium(print)), args=["--no-sandbox"]
        )
        for name, path in PAGES.items():
            _take(browser, home + path, f"{name}.png", 1280, "light")
        _take(browser, f"{home}/products/LAMP", "product-phone.png", 390, "dark")
        browser.close()


@contextmanager
def _service(folder: Path) -> Iterator[str]:
    """`allocation up` on the embedded default; its address."""
    port, flower = free_ports(2)
    up = Process(
        [sys.executable, "-m", "allocation", "up"],
        log=folder / "up.log",
        env={
            "ALLOCATION_STATE_DIR": str(folder / "state"),
            "ALLOCATION_PORT": str(port),
            "ALLOCATION_FLOWER_PORT": str(flower),
        },
    ).start()
    try:
        for line in ("api .*ready at", "worker .*ready", "relay .*ready"):
            up.wait_for_log(line, within=60)
        yield f"http://127.0.0.1:{port}"
    finally:
        up.stop()


def _play(home: str) -> None:
    """Stock on the shelf and on ships, orders that are served, move and wait."""
    today = datetime.now(UTC).date()

    def day(days: int) -> str:
        return (today + timedelta(days=days)).isoformat()

    stock: list[tuple[str, str, int, str | None]] = [
        ("shelf-lamp", "LAMP", 60, None),
        ("ship-aurora", "LAMP", 120, day(6)),
        ("ship-borealis", "LAMP", 80, day(19)),
        ("shelf-chair", "CHAIR", 340, None),
        ("ship-cassia", "CHAIR", 500, day(11)),
        ("shelf-sofa", "SOFA", 4, None),
        ("ship-dorado", "TABLE", 25, day(-2)),
        ("shelf-vase", "VASE", 1250, None),
    ]
    for batchref, sku, qty, eta in stock:
        _do(home, "POST", "/v1/batches", batchref=batchref, sku=sku, qty=qty, eta=eta)
    for number in range(18):
        orderid = f"order-{1000 + number}"
        _do(home, "POST", "/v1/allocations", orderid=orderid, sku="LAMP", qty=7 + number % 8)
        for sku in ("CHAIR", "VASE", "TABLE", "SOFA")[: 1 + number % 4]:
            _do(home, "POST", "/v1/allocations", orderid=orderid, sku=sku, qty=2 + number % 5)
    _do(home, "PATCH", "/v1/batches/ship-aurora", qty=40)


def _do(home: str, method: str, path: str, **body: Any) -> None:
    request = urllib.request.Request(
        home + path,
        data=json.dumps(body).encode(),
        method=method,
        headers={"Content-Type": "application/json", "Prefer": "wait=20"},
    )
    urllib.request.urlopen(request, timeout=30).close()


def _take(browser: Browser, address: str, name: str, width: int, scheme: str) -> None:
    context = browser.new_context(
        viewport={"width": width, "height": 800 if width > 600 else 844},
        color_scheme="dark" if scheme == "dark" else "light",
    )
    page = context.new_page()
    page.goto(address, wait_until="load")
    if page.locator("body[data-stream]").count():
        page.get_by_text("Live: this page updates automatically.").wait_for()
    page.screenshot(path=PICTURES / name)
    context.close()
    print(f"docs/img/{name}", flush=True)


if __name__ == "__main__":
    main()
