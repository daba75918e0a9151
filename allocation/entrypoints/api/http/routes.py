"""A route is declared where it stands: Flask's rule and the OpenAPI operation both follow.

By hand: flask-openapi, apispec and flask-smorest describe bodies by models or schemas of their own,
and the contract's JSON Schemas, which are strict, would have to be written twice.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from flask import Blueprint, Response

from allocation.entrypoints.api.description.schemas import PENDING, Answer
from allocation.entrypoints.api.http import intake, parsing, preconditions
from allocation.entrypoints.api.http.parsing import IDS, Parameter

JSON = "application/json"

View = Callable[..., Response]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One operation. Its `problems` follow from the other fields.

    `commands` are those that it accepts; of several, the only field of the body says which.
    `refusals` are the reasons for which a rule may refuse them, `bulk` is the answer, by 200 or
    202, to a body of many lines. `is_open`: it requires no key; `is_probe`: it answers 503 if the
    service can't work; `has_etag`: its answer has the version of the resource; `waits`: it takes
    Prefer, as do all that accept a command.
    """

    method: str
    rule: str
    summary: str
    answers: tuple[Answer, ...]
    description: str = ""
    parameters: tuple[Parameter, ...] = ()
    content: str = JSON
    is_open: bool = False
    is_probe: bool = False
    has_etag: bool = False
    waits: bool = False
    commands: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()
    bulk: Answer | None = None

    @property
    def path(self) -> str:
        """The rule as OpenAPI writes it."""
        return re.sub(r"<(\w+)>", r"{\1}", self.rule)

    @property
    def path_parameters(self) -> list[str]:
        return re.findall(r"<(\w+)>", self.rule)

    @property
    def takes_version(self) -> bool:
        """Whether If-Match says which version of the resource its command expects."""
        return any(map(preconditions.takes_version, self.commands))

    @property
    def problems(self) -> set[int]:
        """The statuses of its errors."""
        found = {500} if self.is_open else {401, 403, 429, 500, 503}
        if self.is_probe:
            found.add(503)
        if self.commands:
            found |= {400, 409, 422} if self.method == "delete" else {400, 409, 413, 415, 422}
        elif self.path_parameters:
            found.add(404)
        if self.takes_version:
            found.add(412)
        if self.parameters or IDS.keys() & self.path_parameters:
            found.add(422)
        return found


class Resource:
    """The routes of one resource: a blueprint for Flask, `routes` for the description."""

    def __init__(self, name: str, *, template_folder: str | None = None) -> None:
        self.blueprint = Blueprint(name, __name__, template_folder=template_folder)
        self.routes: dict[str, Route] = {}
        """By Flask's name of the endpoint."""

    def get(
        self,
        rule: str,
        summary: str,
        answer: Answer,
        *,
        description: str = "",
        parameters: tuple[Parameter, ...] = (),
        content: str = JSON,
        is_open: bool = False,
        is_probe: bool = False,
        has_etag: bool = False,
        waits: bool = False,
    ) -> Callable[[View], View]:
        """Declare what GET answers; the decorated function makes the answer."""
        route = Route(
            method="get",
            rule=rule,
            summary=summary,
            answers=(answer,),
            description=description,
            parameters=parameters,
            content=content,
            is_open=is_open,
            is_probe=is_probe,
            has_etag=has_etag,
            waits=waits,
        )

        def register(view: View) -> View:
            self._add(route, view.__name__, view)
            return view

        return register

    def command(
        self,
        method: str,
        rule: str,
        command: str | tuple[str, ...],
        summary: str,
        *answers: Answer,
        refusals: tuple[str, ...],
        bulk: Answer | None = None,
        view: View | None = None,
    ) -> None:
        """Declare a route that accepts a command: 202, or one of `answers` if the caller waits.

        The body, the path and If-Match make the command, unless there is a `view`. Of several
        commands, the only field of the body says which. A DELETE has no body; one that is there is
        ignored.
        """
        commands = (command,) if isinstance(command, str) else command

        def accept(**from_path: str) -> Response:
            given = from_path | preconditions.given(commands)
            if view is not None:
                return view()
            if method == "DELETE":
                return intake.answer(parsing.parse(commands[0], given))
            return intake.answer(parsing.command(commands, given))

        route = Route(
            method=method.lower(),
            rule=rule,
            summary=summary,
            answers=(*answers, PENDING),
            waits=True,
            commands=commands,
            refusals=refusals,
            bulk=bulk,
        )
        self._add(route, commands[0].removeprefix("allocation."), accept)

    def _add(self, route: Route, endpoint: str, view: View) -> None:
        self.routes[f"{self.blueprint.name}.{endpoint}"] = route
        # A page is the same page behind a slash.
        strict = False if route.content == "text/html" else None
        self.blueprint.add_url_rule(
            route.rule, endpoint, view, methods=[route.method.upper()], strict_slashes=strict
        )
