"""The pages for people: products, orders, operations; rendered here, kept up to date by /stream."""

from flask import Blueprint, Response

from allocation.entrypoints.api.pages import (
    batches,
    operations,
    orders,
    products,
    reasons,
    template_filters,
)

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""A page runs and shows nothing but its own files."""


def blueprint() -> Blueprint:
    made = Blueprint("pages", __name__, template_folder="templates")
    template_filters.register(made)
    reasons.register(made)
    for room in (products, orders, batches, operations):
        room.register(made)

    @made.after_request
    def guard(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = POLICY
        return response

    return made
