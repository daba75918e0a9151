"""Reservations: hold stock for a while, confirm it, hold it for longer, give it up."""

from flask import Blueprint, Response

from allocation.entrypoints.api.http import intake, parsing


def blueprint() -> Blueprint:
    made = Blueprint("reservations", __name__)
    made.post("/v1/reservations")(reserve)
    made.post("/v1/reservations/<orderid>/confirm")(confirm)
    made.post("/v1/reservations/<orderid>/extend")(extend)
    made.delete("/v1/reservations/<orderid>")(release)
    return made


def reserve() -> Response:
    return intake.answer(parsing.command("allocation.reserve"))


def confirm(orderid: str) -> Response:
    return intake.answer(parsing.command("allocation.confirm", optional=True, orderid=orderid))


def extend(orderid: str) -> Response:
    return intake.answer(parsing.command("allocation.extend", orderid=orderid))


def release(orderid: str) -> Response:
    return intake.answer(parsing.command_from_path("allocation.release", orderid=orderid))
