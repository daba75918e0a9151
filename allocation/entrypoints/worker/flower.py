"""Security headers for Flower, so that no other site can show its pages in a frame.

Flower has no setting for headers. `flower.urls.settings` are the keyword arguments of its tornado
application; `tests/e2e/test_flower.py` fails if that changes.
"""

import sys
from typing import Any

from tornado.httputil import HTTPHeaders
from tornado.web import OutputTransform

HEADERS = {
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Unframed(OutputTransform):
    """Adds HEADERS to every response: pages, files, errors and the API."""

    def transform_first_chunk(
        self, status_code: int, headers: HTTPHeaders, chunk: bytes, finishing: bool
    ) -> tuple[int, HTTPHeaders, bytes]:
        for name, value in HEADERS.items():
            headers[name] = value
        return status_code, headers, chunk


def add_headers() -> None:
    """Add HEADERS to all responses of Flower; `flower.urls` must be imported already."""
    settings: dict[str, Any] = sys.modules["flower.urls"].settings
    settings["transforms"] = [Unframed]
