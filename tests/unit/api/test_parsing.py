"""Parameters are checked by their declarations; paths have one spelling."""

from typing import Any

import pytest

from allocation.entrypoints.api.http.parsing import Parameter, canonical, number, sent_path

LIMIT = Parameter("limit", "", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100})
OPEN = Parameter("open", "", {"type": "boolean", "default": False})
AFTER = Parameter("after", "", {"type": "string", "pattern": "^[a-z]+$"}, problem="is no place")


@pytest.mark.parametrize(
    ("parameter", "text", "value"),
    [
        *((LIMIT, None, 100), (LIMIT, "1", 1), (LIMIT, "1000", 1000), (LIMIT, "007", 7)),
        *((OPEN, None, False), (OPEN, "true", True), (OPEN, "false", False)),
        *((AFTER, None, None), (AFTER, "abc", "abc")),
    ],
)
def test_a_value_is_read_as_its_type(parameter: Parameter, text: str | None, value: Any) -> None:
    assert parameter.read(text) == value


@pytest.mark.parametrize(
    ("parameter", "texts", "problem"),
    [
        (
            LIMIT,
            ["", "0", "1001", "-1", "1.0", "x", "\u0663", "9" * 5000],
            "must be a whole number from 1 to 1000",
        ),
        (OPEN, ["", "True", "1"], "must be true or false"),
        (AFTER, ["", "A", "abc\n"], "is no place"),
    ],
)
def test_a_value_that_breaks_the_declaration_is_refused(
    parameter: Parameter, texts: list[str], problem: str
) -> None:
    for text in texts:
        with pytest.raises(ValueError, match=f"^{problem}$"):
            parameter.read(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [(None, None), ("", None), ("-1", None), ("9" * 19, None), ("9" * 18, 10**18 - 1), ("07", 7)],
)
def test_a_number_fits_into_the_database(text: str | None, expected: int | None) -> None:
    assert number(text) == expected


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
