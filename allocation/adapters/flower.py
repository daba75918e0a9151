"""Flower's pages must not be shown in a frame of another site.

Flower has no setting for headers. `flower.urls.settings` are the arguments of its tornado
application; `tests/e2e/test_flower.py` fails if they no longer are.
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
    """Have Flower send HEADERS, if this process is to run it."""
    settings: dict[str, Any] = sys.modules["flower.urls"].settings
    settings["transforms"] = [Unframed]
