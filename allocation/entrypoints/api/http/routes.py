"""A route is declared where it stands: Flask's rule and the OpenAPI operation both follow.

By hand: flask-openapi, apispec and flask-smorest describe bodies by models or schemas of their own,
and the contract's JSON Schemas, which are strict, would have to be written twice.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from flask import Blueprint, Response

from allocation.entrypoints.api.description.schemas import PENDING, Answer
from allocation.entrypoints.api.http import intake, parsing
from allocation.entrypoints.api.http.parsing import IDS, Parameter

JSON = "application/json"

View = Callable[..., Response]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One operation. Its `problems` follow from the other fields.

    `command` is the command that it accepts, `refusals` are the reasons for which a rule may refuse
    it, `bulk` is the answer, by 200 or 202, to a body of many lines. `is_open`: it requires no key;
    `is_probe`: it answers 503 if the service can't work.
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
    command: str | None = None
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
    def problems(self) -> set[int]:
        """The statuses of its errors."""
        found = {500} if self.is_open else {401, 403, 429, 500, 503}
        if self.is_probe:
            found.add(503)
        if self.command is not None:
            found |= {400, 409, 422} if self.method == "delete" else {400, 409, 413, 415, 422}
        elif self.path_parameters:
            found.add(404)
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
        )

        def register(view: View) -> View:
            self._add(route, view.__name__, view)
            return view

        return register

    def command(
        self,
        method: str,
        rule: str,
        command: str,
        summary: str,
        *answers: Answer,
        refusals: tuple[str, ...],
        bulk: Answer | None = None,
        view: View | None = None,
    ) -> None:
        """Declare a route that accepts a command: 202, or one of `answers` if the caller waits.

        The body and the path make the command, unless there is a `view`. A DELETE has no body; one
        that is there is ignored.
        """

        def accept(**from_path: str) -> Response:
            if method == "DELETE":
                return intake.answer(parsing.parse(command, from_path))
            return intake.answer(parsing.command(command, **from_path))

        route = Route(
            method=method.lower(),
            rule=rule,
            summary=summary,
            answers=(*answers, PENDING),
            command=command,
            refusals=refusals,
            bulk=bulk,
        )
        self._add(route, command.removeprefix("allocation."), view or accept)

    def _add(self, route: Route, endpoint: str, view: View) -> None:
        self.routes[f"{self.blueprint.name}.{endpoint}"] = route
        # A page is the same page behind a slash.
        strict = False if route.content == "text/html" else None
        self.blueprint.add_url_rule(
            route.rule, endpoint, view, methods=[route.method.upper()], strict_slashes=strict
        )
