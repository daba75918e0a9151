"""/asyncapi.json describes the messages, /docs/events shows them without a script."""

import re

import pytest
from flask.testing import FlaskClient

from allocation.contract.asyncapi import document
from allocation.contract.registry import MESSAGES


def test_the_description_is_served_as_it_is(client: FlaskClient) -> None:
    """Without a key, like that of the API."""
    assert client.get("/asyncapi.json").json == document()


def test_the_page_shows_every_message_with_its_example_and_schema(client: FlaskClient) -> None:
    """Each once, and listed in the contents."""
    page = client.get("/docs/events").text

    for name, message in MESSAGES.items():
        assert page.count(f'<h3 id="{name}">') == 1
        assert page.count(f'<li><a href="#{name}">') == 1
        assert f'aria-label="Example of {name}"' in page
        assert f"<summary>Schema of {name}</summary>" in page
        assert [field for field in message.fields if f"<code>{field}</code>" not in page] == []
    assert page.count("<details>") == len(document()["components"]["messages"])


@pytest.mark.parametrize("path", ["/docs/events", "/docs/events/"])
def test_the_page_s_links_lead_somewhere_and_nowhere_else(path: str, client: FlaskClient) -> None:
    """Its own parts, its style, the two descriptions, the other pages; no script, no other host."""
    page = client.get(path)
    addresses = set(re.findall(r'(?:src|href)="([^"]+)"', page.text))
    parts = {address[1:] for address in addresses if address.startswith("#")}

    assert addresses - {f"#{part}" for part in parts} == {
        "/assets/icon.svg",
        "/assets/site.css",
        "/docs/events.css",
        "/asyncapi.json",
        *("/", "/orders", "/operations", "/docs"),
    }
    assert parts <= set(re.findall(r' id="([^"]+)"', page.text))
    assert "<script" not in page.text
    assert "script-src" not in page.headers["Content-Security-Policy"]
    assert client.get("/docs/events.css").mimetype == "text/css"
    assert "color-scheme: light dark" in client.get("/assets/site.css").text
