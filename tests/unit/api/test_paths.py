"""Percent-encoded paths have one spelling."""

import pytest

from allocation.entrypoints.api.http.parsing import canonical, sent_path


@pytest.mark.parametrize(
    ("sent", "spelling"),
    [
        ("/orders/SO%2F1", "/orders/SO%2F1"),
        ("/orders/a b", "/orders/a%20b"),
        ("/orders/%41%7e", "/orders/A~"),
        ("//x/", "//x/"),
        ("/%ff", "/%FF"),
        ("/\xc3\xa4", "/%C3%A4"),
    ],
)
def test_a_path_has_one_spelling(sent: str, spelling: str) -> None:
    assert canonical(sent) == spelling


@pytest.mark.parametrize(
    "raw", ["/a%2Fb", "/a%2Fb?q=1", "/a%2Fb#x", "http://host/a%2Fb", "/behind/a%2Fb"]
)
def test_the_path_is_the_one_that_was_sent(raw: str) -> None:
    assert sent_path({"PATH_INFO": "/a/b", "RAW_URI": raw, "SCRIPT_NAME": "/behind"}) == "/a%2Fb"


def test_a_path_that_a_middleware_changed_counts() -> None:
    assert sent_path({"PATH_INFO": "/c d", "RAW_URI": "/a%2Fb"}) == "/c%20d"
