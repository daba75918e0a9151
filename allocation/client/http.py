"""Commands over HTTP, with Python's own library."""

import json
import math
import ssl
import time
from collections.abc import Mapping
from http.client import HTTPException
from string import Formatter
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import HTTPRedirectHandler, HTTPSHandler, Request, build_opener
from uuid import UUID, uuid4

from allocation.client.answers import Answer, members, standing, taken
from allocation.client.commands import CHOOSING, ROUTES, Commands
from allocation.client.errors import Invalid, Unreachable
from allocation.client.messages import Outcome, plain
from allocation.client.patience import Patience

_ANSWER_WITHIN = 10.0  # seconds, beside those that the server was asked to wait
_LONGEST_WAIT = 30  # seconds that the server waits at most


class HttpClient(Commands):
    """Sends commands to the API at `url`, and asks for outcomes. Threads may share it.

    What can't be reached, or puts commands off, is tried again for `patience` seconds. `tls` says
    whom to trust at https, by default whom the machine trusts.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        patience: float = 30.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        if urlsplit(url).scheme not in ("http", "https"):
            raise ValueError(
                f"the URL of the API must begin with http:// or https://, unlike {url!r}"
            )
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._patience = patience
        # The key is for this address alone: no redirect takes it elsewhere.
        self._opener = build_opener(_NoRedirect, HTTPSHandler(context=tls))

    def send(
        self,
        name: str,
        *,
        wait: float = 0.0,
        idempotency_key: UUID | str | None = None,
        **fields: Any,
    ) -> Outcome:
        """Send the command `name`: the outcome, `pending` where `wait` seconds did not bring it.

        Raises Invalid, Reused, Unauthorized and Unreachable.
        """
        known = plain(fields)
        version = known.pop("expected_version", None)
        method, path, body = _request(name, known)
        key = str(idempotency_key or uuid4())
        headers = {"Idempotency-Key": key}
        if version is not None:
            headers["If-Match"] = f'"{version}"'
        end = time.monotonic() + wait
        while True:
            left = max(0.0, end - time.monotonic())
            # Sent again with its key, it adds nothing, and waits for the outcome once more.
            prefer, seconds = _preference(left)
            answer = self._ask(method, path, body, headers | prefer, seconds, key)
            outcome = taken(answer)
            left = end - time.monotonic()
            if outcome.status != "pending" or left <= 0:
                return outcome
            if not answer.has_waited:  # the server has no place to wait in: ask again later
                time.sleep(min(left, answer.retry_after))

    def outcome(self, command_id: UUID | str, *, wait: float = 0.0) -> Outcome:
        """How a command stands; `pending` too while nobody has seen it.

        Raises Unauthorized and Unreachable.
        """
        end = time.monotonic() + wait
        pause = 0.05
        while True:
            path = f"/v1/commands/{quote(str(command_id), safe='')}"
            prefer, seconds = _preference(max(0.0, end - time.monotonic()))
            answer = self._ask("GET", path, None, prefer, seconds, None)
            outcome = standing(answer, str(command_id))
            left = end - time.monotonic()
            if outcome.status != "pending" or left <= 0:
                return outcome
            # Without a place to wait in, or without the id yet, the server answers at once.
            if not answer.has_waited:
                time.sleep(min(left, pause))
                pause = min(2 * pause, 1.0)

    def _ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        headers: Mapping[str, str],
        seconds: float,
        key: str | None,
    ) -> Answer:
        data = None if body is None else json.dumps(body).encode()
        typed = {} if data is None else {"Content-Type": "application/json"}
        request = Request(  # noqa: S310 - the scheme was checked
            self._url + path, data, {**self._headers, **headers, **typed}, method=method
        )
        patience = Patience(self._patience)
        while True:
            try:
                answer = self._answer(request, seconds + _ANSWER_WITHIN)
            except (OSError, HTTPException) as error:
                said = error.reason if isinstance(error, URLError) else error
                why, pause = f"{self._url} can't be reached ({said})", 0.0
            else:
                if not answer.is_for_later:
                    return answer
                why = f"{self._url} refuses the request for now ({answer.status}: {answer.detail})"
                pause = answer.retry_after
            if not patience.pause(pause):
                raise Unreachable(why, key)

    def _answer(self, request: Request, within: float) -> Answer:
        try:
            with self._opener.open(request, timeout=within) as response:
                return Answer(response.status, response.headers, members(response.read()))
        except HTTPError as error:
            with error:
                return Answer(error.code, error.headers, members(error.read()))


class _NoRedirect(HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def _preference(wait: float) -> tuple[dict[str, str], int]:
    """The header that has the server wait, and the seconds that it waits at most."""
    seconds = min(math.ceil(wait), _LONGEST_WAIT)
    return ({"Prefer": f"wait={seconds}"} if seconds else {}), seconds


def _request(name: str, fields: dict[str, Any]) -> tuple[str, str, dict[str, Any] | None]:
    """Method, path and body of the command."""
    if name not in ROUTES:
        raise Invalid(f"the command {name!r} has no route over HTTP", {})
    method, template = ROUTES[name]
    names = [field for _, field, _, _ in Formatter().parse(template) if field]
    if missing := {field: "is missing" for field in names if not fields.get(field)}:
        raise Invalid("A field breaks the contract.", missing)
    path = template.format(**{field: quote(str(fields.pop(field)), safe="") for field in names})
    if name in CHOOSING:
        fields.setdefault(CHOOSING[name], None)
    return method, path, None if method == "DELETE" else fields
