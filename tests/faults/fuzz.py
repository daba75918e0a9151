"""Messages that are no good commands, each broken in a way of its own; seeded."""

import json
import pickle
import random
import string
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

Raw = tuple[bytes, dict[str, Any]]
"""Body, and what kombu's `publish` takes as properties."""


def fuzzed(chance: random.Random, count: int) -> Iterator[Raw]:
    """`count` broken messages; the property message_id of each is fuzz-<number>."""
    breaks = (
        *(_noise, _cut_short, _wrong_shape, _deep, _huge, _content_type, _encoding),
        *(_header, _header, _header, _no_headers, _unknown_task, _canvas),
        *(_field, _field, _field, _positional, _wish, _change, _change),
    )
    for number in range(count):
        body, properties = chance.choice(breaks)(chance, *_good(chance))
        yield body, properties | {"message_id": f"fuzz-{number}"}


def _good(chance: random.Random) -> tuple[dict[str, Any], dict[str, Any]]:
    kwargs = {"orderid": f"fuzz-{chance.getrandbits(64)}", "sku": "sku-0", "qty": 1}
    headers = {
        "lang": "py",
        "task": "allocation.allocate",
        "id": str(UUID(int=chance.getrandbits(128), version=4)),
        "root_id": None,
        "parent_id": None,
        "group": None,
        "eta": None,
        "expires": None,
        "retries": 0,
        "timelimit": [None, None],
    }
    return kwargs, headers


def _message(kwargs: Any, headers: Any, args: Any = (), embed: Any = None) -> Raw:
    body = json.dumps([list(args), kwargs, embed or {}]).encode()
    return body, {
        "headers": headers,
        "content_type": "application/json",
        "content_encoding": "utf-8",
    }


def _anything(chance: random.Random, depth: int = 0) -> Any:
    """Any value that both JSON and AMQP's tables can carry."""
    makers: list[Callable[[], Any]] = [
        lambda: None,
        lambda: chance.random() < 0.5,
        lambda: chance.choice([0, -1, 2**31, 2**53, -(2**40), 10**15]),
        lambda: chance.choice([0.5, -1e300, 1e-9]),
        lambda: "".join(chance.choices(string.printable + "äß漢🪑\u202e", k=chance.randrange(40))),
        lambda: "x" * chance.choice([300, 5000]),
    ]
    if depth < 3:
        makers.append(lambda: [_anything(chance, depth + 1) for _ in range(chance.randrange(4))])
        makers.append(
            lambda: {str(key): _anything(chance, depth + 1) for key in range(chance.randrange(4))}
        )
    return chance.choice(makers)()


def _noise(chance: random.Random, kwargs: Any, headers: Any) -> Raw:
    _, properties = _message(kwargs, headers)
    return b"\xff" + chance.randbytes(chance.randrange(200)), properties


def _cut_short(chance: random.Random, kwargs: Any, headers: Any) -> Raw:
    body, properties = _message(kwargs, headers)
    return body[: chance.randrange(len(body))], properties


def _wrong_shape(chance: random.Random, kwargs: Any, headers: Any) -> Raw:
    _, properties = _message(kwargs, headers)
    shapes = [
        *(_anything(chance), [kwargs], [[], kwargs], [kwargs] * 3),
        {"args": [], "kwargs": kwargs},
    ]
    return json.dumps(chance.choice(shapes)).encode(), properties


def _deep(chance: random.Random, kwargs: Any, headers: Any) -> Raw:
    _, properties = _message(kwargs, headers)
    depth = chance.choice([500, 5_000, 50_000])
    return b"[" * depth + b"]" * depth, properties


def _huge(chance: random.Random, kwargs: Any, headers: Any) -> Raw:
    return _message(kwargs | {"orderid": "x" * 300_000}, headers)


def _content_type(chance: random.Random, kwargs: Any, headers: Any) -> Raw:
    body, properties = _message(kwargs, headers)
    kind = chance.choice(
        ["application/x-python-serialize", "application/x-yaml", "text/plain", "", "x" * 200]
    )
    if kind == "application/x-python-serialize":
        body = pickle.dumps([[], kwargs, {}])
    return body, properties | {"content_type": kind}


def _encoding(chance: random.Random, kwargs: Any, headers: Any) -> Raw:
    body, properties = _message(kwargs, headers)
    if chance.random() < 0.5:
        return body, properties | {"headers": headers | {"compression": "application/x-gzip"}}
    return body, properties | {"content_encoding": chance.choice(["binary", "utf-16", "rot13"])}


def _header(chance: random.Random, kwargs: Any, headers: Any) -> Raw:
    name = chance.choice(["id", "task", "eta", "expires", "retries", "timelimit", "root_id"])
    bad: dict[str, list[Any]] = {
        "id": [None, 7, "", "not-a-uuid", ["a"], "0" * 31],
        "task": [None, 7, "", "celery.chord", "os.system", ["allocation.allocate"], "allocation."],
        "eta": ["soon", 7, ["a"], "2030-13-01T00:00:00", {"a": 1}],
        "expires": ["never", ["a"], {"a": 1}, "2030-02-30"],
        "retries": [-1, "three", 2**40, 0.5, ["a"]],
        "timelimit": ["soon", [1], [1, 2, 3], ["a", "b"], 7, [-1, 0], [0, 10**9]],
        "root_id": [7, "not-a-uuid", ["a"]],
    }
    return _message(kwargs, headers | {name: chance.choice(bad[name])})


def _no_headers(chance: random.Random, kwargs: Any, headers: Any) -> Raw:
    kept = {name: headers[name] for name in chance.sample(sorted(headers), 3)}
    for name in chance.choice([("id",), ("task",), ("id", "task")]):
        kept.pop(name, None)
    return _message(kwargs, kept)


def _unknown_task(chance: random.Random, kwargs: Any, headers: Any) -> Raw:
    name = f"allocation.{''.join(chance.choices(string.ascii_lowercase, k=9))}"
    return _message(kwargs, headers | {"task": name})


def _canvas(chance: random.Random, kwargs: Any, headers: Any) -> Raw:
    if chance.random() < 0.5:
        signature = {"task": "allocation.deallocate", "args": [], "kwargs": {}, "options": {}}
        name = chance.choice(["callbacks", "errbacks", "chain"])
        return _message(kwargs, headers, embed={name: [signature]})
    name, value = chance.choice(
        [("group", headers["id"]), ("stamps", {"a": "b"}), ("stamped_headers", ["a"])]
    )
    return _message(kwargs, headers | {name: value})


def _field(chance: random.Random, kwargs: Any, headers: Any) -> Raw:
    broken = dict(kwargs)
    name = chance.choice(sorted(kwargs))
    how = chance.randrange(3)
    if how == 0:
        del broken[name]
    elif how == 1:
        broken["".join(chance.choices(string.ascii_letters, k=6))] = _anything(chance)
    else:
        broken[name] = chance.choice([None, True, [], {}, "", -1 if name == "qty" else "x" * 300])
    return _message(broken, headers)


def _wish(chance: random.Random, kwargs: Any, headers: Any) -> Raw:
    name, values = chance.choice(
        [
            ("priority", [10, -1, "high", 0.5, None, True]),
            ("not_before", ["soon", 7, "2030-02-30", True, "2030-03-01T00:00:00Z"]),
            ("fresh_days", [-1, 36_501, "many", None, 1.5]),
        ]
    )
    return _message(kwargs | {name: chance.choice(values)}, headers)


def _change(chance: random.Random, kwargs: Any, headers: Any) -> Raw:
    """A change of a line or a batch that was prepared, with one invalid value."""
    batch, line = {"batchref": "base-sku-0"}, {"orderid": kwargs["orderid"], "sku": "sku-0"}
    changes: list[tuple[str, dict[str, Any]]] = [
        ("receive", batch | {"qty": chance.choice([0, -3, 2**31, "3", None])}),
        ("block_batch", batch | {"reason": chance.choice([None, "", 7, "x" * 300])}),
        ("change_best_before", batch | {"best_before": chance.choice(["soon", 7, "2030-02-30"])}),
        ("dispatch", line | {"qty": chance.choice([0, -1, "all"])}),
        ("return_goods", line | {"qty": 1, "batchref": chance.choice([None, "", 7])}),
        ("change_line_quantity", line | {"qty": chance.choice([0, -1, None, 1.5])}),
        ("change_priority", line | {"priority": chance.choice([10, -1, None])}),
        ("cancel_order", line),
    ]
    name, body = chance.choice(changes)
    return _message(body, headers | {"task": f"allocation.{name}"})


def _positional(chance: random.Random, kwargs: Any, headers: Any) -> Raw:
    return _message(kwargs, headers, args=[_anything(chance)])
