"""`allocation demo`: the whole story with real processes on the embedded default, step by step."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from allocation.entrypoints.cli import up
from allocation.entrypoints.cli.terminal import T, console, fail

TIMEOUT = 30.0  # seconds that any one thing may take
CLIENT = Path(__file__).with_name("demo_client.py")


class StepFailed(Exception):
    """A step of the story did not come out as it must; the text names it."""


def demo() -> None:
    """Run an example from start to end on the embedded default, in a temporary folder."""
    from allocation.settings import Settings

    page = up.page(Settings())
    with tempfile.TemporaryDirectory(prefix="allocation-demo-") as folder:
        try:
            Demo(Path(folder)).play()
        except StepFailed as failure:
            fail(str(failure))
    console.print(
        "Everything worked. Next: `make up` (or `allocation up`) keeps the service running; then"
        f" open its page, {page}. README.md shows how other services send commands and receive"
        " events."
    )


class Demo:
    """A service of its own in a temporary folder, and the story that is played on it."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._port, flower_port = _free_ports(2)
        self._environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("ALLOCATION_", "WAREHOUSE_", "NOTIFICATION_"))
        } | {
            "ALLOCATION_STATE_DIR": str(state_dir),
            "ALLOCATION_PORT": str(self._port),
            "ALLOCATION_FLOWER_PORT": str(flower_port),
        }
        self._log = state_dir / "up.log"
        self._step = "start the service"

    def play(self) -> None:
        """Every step in turn. Raises StepFailed."""
        with self._service():
            for step, play in (
                ("create two batches", self._two_batches),
                ("allocate an order", self._an_order),
                ("shrink the batch from another service", self._a_smaller_batch),
                ("let an order wait", self._an_order_that_nothing_can_serve),
                ("serve the order that waits", self._new_stock),
                ("report a late shipment", self._a_late_shipment),
                ("reserve stock for a basket", self._a_basket),
                ("dispatch", self._goods_that_leave),
                ("return goods", self._goods_that_come_back),
            ):
                self._step = step
                play()
        self._step = "audit the books"
        for line in self._run("-m", "allocation", "check").splitlines():
            self._say(line)

    @contextmanager
    def _service(self) -> Iterator[None]:
        self._say("Starting api, worker, relay, inbound, warehouse, notification and Flower ...")
        with self._log.open("wb") as log:
            up = subprocess.Popen(
                [sys.executable, "-m", "allocation", "up"],
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            with console.status("waiting until all of them are ready"):
                self._until("the API answers", lambda: self._ready(up))
            yield
        finally:
            up.send_signal(signal.SIGINT)
            with console.status("stopping every process"):
                up.wait(60)

    def _ready(self, up: "subprocess.Popen[bytes]") -> bool:
        if up.poll() is not None:
            raise StepFailed(f"`allocation up` ended with exit status {up.returncode}")
        with suppress(OSError, StepFailed):
            return bool(self._ask("/readyz"))
        return False

    def _two_batches(self) -> None:
        self._ask("/v1/batches", {"batchref": "early", "sku": "RED-CHAIR", "qty": 10})
        self._ask(
            "/v1/batches", {"batchref": "late", "sku": "RED-CHAIR", "qty": 10, "eta": "2030-06-01"}
        )
        batches = self._ask("/v1/products/RED-CHAIR")["batches"]
        self._expect([batch["batchref"] for batch in batches] == ["early", "late"], batches)
        for batch in batches:
            self._say(
                f"Batch {batch['batchref']}: {batch['qty']} x RED-CHAIR, "
                + (f"arriving {batch['eta']}." if batch["eta"] else "on the shelf.")
            )

    def _an_order(self) -> None:
        order = {"orderid": "order-1", "sku": "RED-CHAIR", "qty": 8}
        self._ask("/v1/allocations", order, batchref="early")
        self._say("order-1 needs 8 pieces and is allocated to batch early, which arrives first.")
        self._picks({("order-1", "early"): "open"})

    def _a_smaller_batch(self) -> None:
        self._send("allocation.change_batch_quantity", {"batchref": "early", "qty": 5})
        self._say(
            "Another service, which imports none of our code, sends"
            " allocation.change_batch_quantity by name: batch early has only 5."
        )
        self._until("order-1 is on batch late", lambda: self._line("order-1")["batchref"] == "late")
        self._say("order-1 no longer fits, so it moved to batch late.")
        self._picks({("order-1", "early"): "cancelled", ("order-1", "late"): "expected"})

    def _an_order_that_nothing_can_serve(self) -> None:
        order = {"orderid": "order-2", "sku": "RED-CHAIR", "qty": 100}
        self._ask("/v1/allocations", order, status="waiting")
        self._say(
            "order-2 needs 100 pieces, which no batch can serve: it waits and keeps its place."
        )
        mail = self._until("the stock team's mail", lambda: self._mail("order-2"))
        self._say(f"The stock team got a mail: “{mail}”")

    def _new_stock(self) -> None:
        self._ask("/v1/batches", {"batchref": "new", "sku": "RED-CHAIR", "qty": 100})
        self._until("order-2 is on batch new", lambda: self._line("order-2")["batchref"] == "new")
        self._say("A new batch arrives, and batch new serves order-2.")
        self._picks(
            {
                ("order-1", "early"): "cancelled",
                ("order-1", "late"): "expected",
                ("order-2", "new"): "open",
            }
        )

    def _a_late_shipment(self) -> None:
        self._send("allocation.change_batch_eta", {"batchref": "late", "eta": "2030-09-01"})
        self._until("order-1 comes later", lambda: self._line("order-1")["eta"] == "2030-09-01")
        mail = self._until("the orders team's mail", lambda: self._mail("2030-09-01"))
        self._say("Batch late arrives on 2030-09-01 instead, and so does order-1.")
        self._say(f"The orders team got a mail: “{mail}”")

    def _a_basket(self) -> None:
        basket = {"orderid": "order-3", "sku": "RED-CHAIR", "qty": 2, "ttl": 900}
        self._ask("/v1/reservations", basket, status="reserved")
        self._say("order-3 is in a basket: 2 pieces of batch early are reserved for 15 minutes.")
        self._ask("/v1/reservations/order-3/confirm", {}, status="confirmed")
        self._say("The order is confirmed in time, and only now does the warehouse get a pick.")
        self._pick("order-3", "open")

    def _goods_that_leave(self) -> None:
        self._run("-m", "workers.warehouse", "dispatch", "order-3")
        self._until(
            "order-3 is dispatched", lambda: self._line("order-3")["status"] == "dispatched"
        )
        self._say("The warehouse has shipped order-3: its 2 pieces have left the batch.")
        self._pick("order-3", "dispatched")

    def _goods_that_come_back(self) -> None:
        goods = {"orderid": "order-3", "sku": "RED-CHAIR", "qty": 1, "batchref": "returns"}
        self._send("allocation.return_goods", goods)
        self._until("batch returns is there", lambda: "returns" in self._batches())
        self._say(
            "The customer of order-3 sends 1 piece back: it is on the shelf, as batch returns."
        )

    def _batches(self) -> list[str]:
        batches = self._ask("/v1/products/RED-CHAIR")["batches"]
        return [batch["batchref"] for batch in batches]

    def _say(self, sentence: str) -> None:
        console.print(f"  {sentence}", markup=False, highlight=False)

    def _expect(self, holds: bool, seen: object) -> None:
        if not holds:
            raise StepFailed(f"step “{self._step}”: unexpected result: {seen}\n{self.log_tail()}")

    def _until(self, what: str, ask: Callable[[], T]) -> T:
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            if answer := ask():
                return answer
            time.sleep(0.05)  # between two looks, within TIMEOUT
        raise StepFailed(
            f"step “{self._step}”: timed out after {TIMEOUT:.0f} s waiting until"
            f" {what}\n{self.log_tail()}"
        )

    def log_tail(self) -> str:
        """The last lines that the service's processes wrote."""
        lines = self._log.read_text(errors="replace").splitlines()[-25:]
        return "\n".join(["The service's last lines:", *lines])

    def _pick(self, orderid: str, status: str) -> None:
        self._until(
            f"the pick of {orderid} is {status}",
            lambda: [pick["status"] for pick in self._listed("--orderid", orderid)] == [status],
        )
        self._say(f"The warehouse's pick of {orderid} is {status}.")

    def _picks(self, expected: dict[tuple[str, str], str]) -> None:
        def seen() -> dict[tuple[str, str], str]:
            return {(each["orderid"], each["batchref"]): each["status"] for each in self._listed()}

        self._until(f"the warehouse's pick list is {expected}", lambda: seen() == expected)
        picks = ", ".join(f"{o} from {b} {status}" for (o, b), status in expected.items())
        self._say(f"The warehouse's pick list: {picks}.")

    def _listed(self, *options: str) -> list[dict[str, Any]]:
        return list(json.loads(self._run("-m", "workers.warehouse", "picks", "--json", *options)))

    def _line(self, orderid: str) -> dict[str, Any]:
        """The order's one line."""
        return dict(self._ask(f"/v1/allocations/{orderid}")["lines"][0])

    def _mail(self, word: str) -> str | None:
        import email.policy

        for file in sorted((self._state_dir / "mails").glob("*.eml")):
            mail = email.message_from_bytes(file.read_bytes(), policy=email.policy.default)
            if word in str(mail["subject"]) + str(mail.get_content()):
                return str(mail["subject"])
        return None

    def _send(self, task: str, body: dict[str, object]) -> None:
        from allocation.messaging.connection import SPOOL_TRANSPORT

        spool = f"spool://{self._state_dir}/spool"
        # -P: the client imports nothing from its own folder.
        self._run("-P", str(CLIENT), spool, SPOOL_TRANSPORT, task, json.dumps(body))

    def _run(self, *arguments: str) -> str:
        """What a Python program prints with the service's settings; it must end well."""
        ended = subprocess.run(
            [sys.executable, *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        self._expect(ended.returncode == 0, ended.stdout + ended.stderr)
        return ended.stdout

    def _ask(
        self, path: str, body: dict[str, Any] | None = None, **expected: str
    ) -> dict[str, Any]:
        """The API's answer to a GET, or to a POST of this body, which waits for the outcome."""
        import urllib.error
        import urllib.request

        url = f"http://127.0.0.1:{self._port}{path}"
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", "Prefer": f"wait={TIMEOUT:.0f}"}
        request = urllib.request.Request(url, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT + 5) as response:
                answer = dict(json.load(response))
        except urllib.error.HTTPError as error:
            raise StepFailed(
                f"step “{self._step}”: {url} answered {error.code}:"
                f" {error.read().decode(errors='replace')}"
            ) from error
        self._expect(expected.items() <= answer.items(), answer)
        return answer


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        opened = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in opened]
