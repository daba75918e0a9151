import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from flask import Flask

from allocation.entrypoints.api.http import concurrency
from allocation.entrypoints.api.http.concurrency import Concurrency
from tests.waiting import eventually


class Service:
    """An application with a limit of one; requests for /busy say that they began, and last."""

    def __init__(self) -> None:
        self.limit = Concurrency(1)
        self.began: list[str] = []
        self.go_on = threading.Event()
        self.app = Flask(__name__)
        concurrency.register(self.app, self.limit, {"health"})
        self.app.add_url_rule("/busy/<name>", "work", self._work)
        self.app.add_url_rule("/wait/<name>", "wait", self._wait)
        self.app.add_url_rule("/health", "health", lambda: "well")
        self.app.add_url_rule("/stream", "stream", self._stream)

    def get(self, path: str) -> int:
        return self.app.test_client().get(path).status_code

    def _work(self, name: str) -> str:
        self.began.append(name)
        assert self.go_on.wait(10)
        return name

    def _wait(self, name: str) -> str:
        self.began.append(name)
        with self.limit.released():
            assert self.go_on.wait(10)
        return name

    def _stream(self) -> Iterator[str]:
        return iter(["for ever"])


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def test_a_request_beyond_the_limit_begins_when_another_ends(
    service: Service, threads: ThreadPoolExecutor
) -> None:
    first = threads.submit(service.get, "/busy/first")
    eventually(lambda: service.began)
    second = threads.submit(service.get, "/busy/second")
    health = service.get("/health")
    meanwhile = list(service.began)
    service.go_on.set()

    assert (first.result(), second.result(), health) == (200, 200, 200)
    assert (meanwhile, service.began) == (["first"], ["first", "second"])


def test_a_request_that_waits_lets_others_work(
    service: Service, threads: ThreadPoolExecutor
) -> None:
    waiting = [threads.submit(service.get, f"/wait/{number}") for number in range(3)]

    eventually(lambda: len(service.began) == 3, what="all to wait")
    service.go_on.set()

    assert [each.result() for each in waiting] == [200] * 3


def test_a_request_that_fails_or_streams_gives_its_turn_back(service: Service) -> None:
    service.go_on.set()
    response = service.app.test_client().get("/stream")

    assert service.get("/nowhere") == 404
    assert service.get("/busy/last") == 200
    assert response.text == "for ever"
