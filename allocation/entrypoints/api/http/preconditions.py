"""ETag and If-Match: a change is refused if the resource has changed since the caller read it."""

import re
from collections.abc import Sequence

from flask import Response, request

from allocation.contract import registry
from allocation.domain.commands import Violation
from allocation.entrypoints.api.http.problems import Problem

IF_MATCH = "If-Match"
VERSION = "expected_version"
"""The field of commands that If-Match gives."""


def takes_version(command: str) -> bool:
    """Whether the command may say which version of the resource it expects."""
    return VERSION in registry.schema(command)["properties"]


def given(commands: Sequence[str]) -> dict[str, str]:
    """The version that If-Match expects, as a field of these commands; none for `*`."""
    tag = request.headers.get(IF_MATCH, "*").strip()
    if tag == "*":
        return {}
    if not any(map(takes_version, commands)):
        raise _malformed("has no meaning here: no version of this resource can be expected")
    if tag.startswith("W/"):
        raise _malformed("is a weak entity tag")
    strong = re.fullmatch('"([!#-~]{1,100})"', tag)
    if strong is None:
        raise _malformed("is neither one entity tag in quotes nor *")
    return {VERSION: strong[1]}


def with_etag(response: Response, version: str) -> Response:
    """The response with the version of its resource."""
    response.set_etag(version)
    return response


def _malformed(problem: str) -> Problem:
    return Problem("malformed precondition", errors=[Violation(IF_MATCH, problem)])
