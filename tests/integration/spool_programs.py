"""Programs that tests run as processes of their own on one spool folder: NAME FOLDER ...

Their sleeps of a minute only keep a process there until its test kills it.
"""

import os
import signal
import sys
import time
from itertools import count
from pathlib import Path

from kombu import Connection, Consumer, Exchange, Queue
from kombu.message import Message

TRANSPORT = "allocation.adapters.spool:Transport"


def connect(folder: str) -> Connection:
    """A connection to the spool in `folder`."""
    return Connection(f"spool://{folder}", transport=TRANSPORT)


def work() -> Queue:
    """The queue that the programs share, behind a direct exchange."""
    return Queue("work", Exchange("work", type="direct"), routing_key="work", durable=True)


def produce(folder: str, name: str, count: str) -> None:
    """Publish `count` messages called NAME-number."""
    with connect(folder) as connection:
        producer = connection.Producer()
        for number in range(int(count)):
            producer.publish(
                f"{name}-{number}", exchange="work", routing_key="work", mandatory=True
            )


def consume(folder: str, output: str) -> None:
    """Write the name of each message to OUTPUT, then acknowledge it, for ever."""
    with connect(folder) as connection, Path(output).open("a", buffering=1) as file:

        def note(body: str, message: Message) -> None:
            file.write(body + "\n")
            message.ack()

        _listen(connection, note)


def hold(folder: str, output: str) -> None:
    """Claim messages and acknowledge none; a forked child lives on."""
    if os.fork() == 0:
        time.sleep(60)
        return
    with connect(folder) as connection, Path(output).open("a", buffering=1) as file:
        # Once more, now that the connection is there, as Celery's pool does.
        child = None

        def note(body: str, _message: Message) -> None:
            nonlocal child
            file.write(body + "\n")
            if child is None:
                child = os.fork()
                if child == 0:
                    time.sleep(60)
                    os._exit(0)

        _listen(connection, note)


def acknowledge(folder: str, number: str) -> None:
    """Take five messages and acknowledge them together; die at the NUMBER-th file removed."""
    with connect(folder) as connection:
        queue = work()(connection.channel())
        messages = [queue.get() for _ in range(5)]
        _die_at("os.remove", int(number))
        messages[-1].ack(multiple=True)


def bind(folder: str, name: str, count: str) -> None:
    """Bind `count` queues called NAME-number to one fanout."""
    with connect(folder) as connection:
        for number in range(int(count)):
            exchange = Exchange("news", type="fanout")
            Queue(f"{name}-{number}", exchange)(connection.channel()).declare()


def own(folder: str) -> None:
    """Declare an exclusive queue at a fanout, say so, and live on."""
    with connect(folder) as connection:
        Queue("mine", Exchange("news", type="fanout"), exclusive=True)(
            connection.channel()
        ).declare()
        print("declared", flush=True)
        time.sleep(60)


def _die_at(event: str, number: int) -> None:
    """Kill this process in place of its NUMBER-th call that Python audits as `event`."""
    calls = count(1)

    def audit(name: str, _arguments: object) -> None:
        if name == event and next(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(audit)


def _listen(connection: Connection, note: object) -> None:
    with Consumer(connection.channel(), [work()], callbacks=[note]):
        print("ready", flush=True)
        while True:
            connection.drain_events()


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
