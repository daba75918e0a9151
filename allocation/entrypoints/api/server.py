"""gunicorn around the application: processes, threads, a clean stop."""

import os
import secrets
import shutil
import sys
import tempfile
from types import FrameType
from typing import Any

from flask import Flask
from gunicorn import util
from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger
from gunicorn.http import wsgi
from gunicorn.http.errors import ParseException
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from allocation.adapters.sql.api_keys import ApiKeys
from allocation.bootstrap import Dependencies, build
from allocation.entrypoints.api import state
from allocation.entrypoints.api.auth.security import with_security_headers
from allocation.entrypoints.api.http import waiting
from allocation.entrypoints.api.http.problems import Problem
from allocation.entrypoints.api.http.slow_clients import CONNECTIONS, BufferingWorker
from allocation.messaging.telemetry import logs, metrics_server, tracing
from allocation.settings import is_loopback

SHORTEST_KEY = 16
"""Characters of ALLOCATION_API_KEY where others than this machine may guess."""


def main() -> None:
    """Serve the API until a signal comes."""
    dependencies = build()
    logs.configure(dependencies.settings.log_format, dependencies.settings.log_level)
    serve(dependencies)


def serve(dependencies: Dependencies) -> None:
    """Serve the API until SIGTERM or SIGINT; does not return.

    Ends with a sentence and exit status 1 when others could reach it and there is no key, or one
    that can be guessed.
    """
    if not is_loopback(dependencies.settings.host):
        _check_keys(dependencies)
    # gunicorn's own name and its HTML error pages give way to ours.
    wsgi.SERVER = "allocation"
    util.write_error = _write_error
    folder = tempfile.mkdtemp(prefix="allocation-metrics-", dir=metrics_server.shared_memory())
    # The workers read it when they make the application.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
    _Server(dependencies, folder).run()


def _check_keys(dependencies: Dependencies) -> None:
    settings = dependencies.settings
    reachable = f"other machines can reach {settings.host}"
    if not settings.api_key and not _database_has_keys(dependencies.engine):
        sys.exit(
            f"allocation: there is no API key, and {reachable}: create one with `allocation keys"
            " create`, set ALLOCATION_API_KEY, or listen on 127.0.0.1 (ALLOCATION_HOST)"
        )
    if settings.api_key and len(settings.api_key) < SHORTEST_KEY:
        sys.exit(
            f"allocation: ALLOCATION_API_KEY has fewer than {SHORTEST_KEY} characters, and"
            f" {reachable} and guess: `openssl rand -hex 16` makes a good one"
        )


def _database_has_keys(engine: Engine) -> bool:
    try:
        return ApiKeys(engine).any_valid()
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", error)).strip()
        sys.exit(
            f"allocation: the API keys can't be read from the database: {reason}; check"
            " ALLOCATION_DATABASE_URL, and run `allocation migrate` once"
        )
    finally:
        engine.dispose()  # the processes that serve are forked from this one


class Worker(BufferingWorker):
    """Ends streams and requests that wait for an outcome as soon as it receives a stop signal."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if hasattr(self, "wsgi"):  # else the signal came during the start
            state.of(self.wsgi).stop()
        super().handle_exit(sig, frame)


class _Log(Logger):
    """gunicorn's lines through the process's own log."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        for handler in list(self.error_log.handlers):
            self.error_log.removeHandler(handler)
        self.error_log.propagate = True

    def exception(self, msg: str, *args: object, **kwargs: object) -> None:
        if isinstance(sys.exc_info()[1], TimeoutError):  # of a socket, see stream.SEND_TIMEOUT
            self.warning("a client was disconnected: it did not read the response")
        else:
            super().exception(msg, *args, **kwargs)


class _Server(BaseApplication):
    def __init__(self, dependencies: Dependencies, metrics_folder: str) -> None:
        self._dependencies = dependencies
        self._settings = dependencies.settings
        self._metrics_folder = metrics_folder
        # Made before the processes are forked: what one of them signs, the others take.
        self._session_secret = secrets.token_bytes(32)
        super().__init__()

    def load_config(self) -> None:
        host, port = self._settings.host.strip("[]"), self._settings.port
        self._address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        # A stream holds a thread for as long as it lasts, as does a request that waits for an
        # outcome; requests that are worked on have their own.
        threads = self._settings.api_threads + self._settings.api_streams + self._settings.api_waits
        options: dict[str, object] = {
            "bind": self._address,
            "workers": self._settings.api_workers,
            "threads": threads,
            "worker_class": Worker,
            "worker_connections": CONNECTIONS + threads,
            "sendfile": False,  # it would bypass `ClientSocket.sendall`
            # Requests that wait for an outcome end at once; this is for slow clients.
            "graceful_timeout": waiting.LONGEST + 5,
            # Two ids of 255 characters, four bytes each, percent-encoded.
            "limit_request_line": 8190,
            "logger_class": _Log,
            "loglevel": "warning",
            "control_socket_disable": True,
            "post_worker_init": self._worker_ready,
            "worker_exit": lambda _arbiter, _worker: tracing.stop(),
            "child_exit": _worker_gone,
            "on_exit": lambda _arbiter: shutil.rmtree(self._metrics_folder, ignore_errors=True),
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        from allocation.entrypoints.api.app import create_app  # in the worker, see `serve`

        tracing.start("allocation-api", self._settings.broker_transport)  # after the fork
        app = create_app(self._dependencies, self._session_secret)
        # Chunks that are none show only when the application reads the body.
        app.register_error_handler(
            ParseException, lambda error: Problem(400, str(error)).response()
        )
        return app

    def _worker_ready(self, worker: Worker) -> None:
        if worker.age == 1:
            print(f"The API is ready at http://{self._address} (docs at /docs).", flush=True)


def _worker_gone(_arbiter: object, worker: Worker) -> None:
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.pid)


def _write_error(sock: Any, status: int, reason: str, message: str) -> None:
    """Answer what is not HTTP enough to reach the application."""
    response = with_security_headers(Problem(status, message or reason).response())
    response.headers["Connection"] = "close"
    head = f"HTTP/1.1 {status} {reason}\r\n{response.headers}"
    util.write_nonblock(sock, head.encode("latin-1") + response.get_data())
