"""Reservations: hold stock for a while, confirm it, hold it for longer, give it up."""

from flask import Blueprint, Response

from allocation.api import accepting, bodies


def blueprint() -> Blueprint:
    made = Blueprint("reservations", __name__)
    made.post("/v1/reservations")(reserve)
    made.post("/v1/reservations/<orderid>/confirm")(confirm)
    made.post("/v1/reservations/<orderid>/extend")(extend)
    made.delete("/v1/reservations/<orderid>")(release)
    return made


def reserve() -> Response:
    return accepting.answer(bodies.command("allocation.reserve"))


def confirm(orderid: str) -> Response:
    return accepting.answer(bodies.command("allocation.confirm", optional=True, orderid=orderid))


def extend(orderid: str) -> Response:
    return accepting.answer(bodies.command("allocation.extend", orderid=orderid))


def release(orderid: str) -> Response:
    return accepting.answer(bodies.command_from_path("allocation.release", orderid=orderid))
