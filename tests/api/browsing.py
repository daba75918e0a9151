"""A browser without a script, and what it shows."""

import csv
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

from bs4 import BeautifulSoup, Tag
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

TODAY = datetime.now(UTC).date()
SHIP = TODAY + timedelta(days=9)


class Browser:
    """Gets pages, and sends the forms that are on them."""

    def __init__(self, client: FlaskClient) -> None:
        self.client = client

    def get(self, path: str, status: int = 200) -> BeautifulSoup:
        return page_of(self.client.get(path, follow_redirects=True), status)

    def send(self, page: BeautifulSoup, path: str, **typed: str) -> TestResponse:
        """The page's last form, with what is typed in."""
        form = page.find_all("form")[-1]
        given = {each["name"]: each.get("value", "") for each in form.find_all("input")}
        return self.client.post(form.get("action") or path, data=given | typed)

    def sheet(self, path: str) -> list[list[str]]:
        response = self.client.get(path)
        assert response.mimetype == "text/csv"
        return list(csv.reader(StringIO(response.text)))


def page_of(response: TestResponse, status: int) -> BeautifulSoup:
    assert (response.status_code, response.mimetype) == (status, "text/html")
    return BeautifulSoup(response.text, "html.parser")


def text(found: Tag | None) -> str:
    """What a reader sees of it."""
    assert found is not None
    return " ".join(found.get_text(" ").split()).replace(" ,", ",").replace(" :", ":")


def rows(page: BeautifulSoup, caption: str) -> list[list[str]]:
    """What the cells say of the table whose caption begins so."""
    for table in page.find_all("table"):
        if text(table.caption).startswith(caption):
            return [[text(cell) for cell in row.find_all(["th", "td"])] for row in table("tr")[1:]]
    return []


def batch(ref: str, sku: str, qty: int, eta: object = None) -> tuple[str, dict[str, Any]]:
    return "/v1/batches", {
        "batchref": ref,
        "sku": sku,
        "qty": qty,
        "eta": str(eta) if eta else None,
    }


def line(orderid: str, sku: str, qty: int) -> tuple[str, dict[str, Any]]:
    return "/v1/allocations", {"orderid": orderid, "sku": sku, "qty": qty}
