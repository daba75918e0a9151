"""Celery messages, valid and invalid, as any sender could make them."""

import pickle
from typing import Any
from uuid import uuid4


def celery_headers(task: str = "allocation.allocate", **changes: object) -> dict[str, object]:
    """The headers of a good Celery message, with changes."""
    headers: dict[str, object] = {
        "lang": "py",
        "task": task,
        "id": str(uuid4()),
        "root_id": None,
        "parent_id": None,
        "group": None,
        "eta": None,
        "expires": None,
        "retries": 0,
        "timelimit": [None, None],
    }
    return headers | changes


GOOD_BODY = b'[[], {"orderid": "o", "sku": "LAMP", "qty": 1}, {}]'
INVALID: dict[str, tuple[bytes, dict[str, Any]]] = {
    "bytes that are no text": (b"\xff\xfe\x00", {"headers": celery_headers()}),
    "nothing at all": (b"", {"content_encoding": "binary"}),
    "malformed JSON": (b'[[], {"sku": ', {"headers": celery_headers()}),
    "JSON of another shape": (b'{"a": 1}', {"headers": celery_headers()}),
    "no headers at all": (GOOD_BODY, {"headers": {}}),
    "an old protocol": (
        b'{"task": "allocation.allocate", "id": "x", "args": [], "kwargs": {}}',
        {"headers": {}},
    ),
    "a pickle": (
        pickle.dumps([[], {}, {}]),
        {
            "headers": celery_headers(),
            "content_type": "application/x-python-serialize",
            "content_encoding": "binary",
        },
    ),
    "an unknown encoding": (
        GOOD_BODY,
        {"headers": celery_headers(), "content_encoding": "no-such-code"},
    ),
    "an unknown compression": (
        GOOD_BODY,
        {"headers": celery_headers() | {"compression": "application/x-gzip"}},
    ),
    "two megabytes": (
        b'[[], {"orderid": "' + b"x" * 2_000_000 + b'"}, {}]',
        {"headers": celery_headers()},
    ),
    "deeply nested JSON": (b"[" * 100_000 + b"]" * 100_000, {"headers": celery_headers()}),
    "an unknown task": (GOOD_BODY, {"headers": celery_headers("allocation.nonsense")}),
    "a task of Celery's own": (GOOD_BODY, {"headers": celery_headers("celery.backend_cleanup")}),
    "an id that is no UUID": (GOOD_BODY, {"headers": celery_headers(id="1")}),
    "a bad eta": (GOOD_BODY, {"headers": celery_headers(eta="tomorrow")}),
    "a bad expires": (GOOD_BODY, {"headers": celery_headers(expires=[1])}),
    "a timelimit that nothing can keep": (
        GOOD_BODY,
        {"headers": celery_headers(timelimit=[0.001, 0.0001])},
    ),
    "an eta in another century": (
        GOOD_BODY,
        {"headers": celery_headers(eta="2999-01-01T00:00:00")},
    ),
    "a bad timelimit": (GOOD_BODY, {"headers": celery_headers(timelimit="soon")}),
    "a bad retries": (GOOD_BODY, {"headers": celery_headers(retries="many")}),
    "a canvas": (
        b'[[], {}, {"callbacks": [{"task": "allocation.deallocate"}]}]',
        {"headers": celery_headers()},
    ),
    "stamps": (GOOD_BODY, {"headers": celery_headers(stamps={"a": 1}, stamped_headers=["a"])}),
}
