"""Messages that would harm the process that reads them."""

import subprocess
import sys

from kombu.compression import encoders

UNPACKED = """
import tracemalloc
from allocation.messaging import connection
connection.prepare_process()
from kombu.compression import encoders, get_encoder
from kombu.message import Message
for kind in encoders():
    packed = get_encoder(kind)[0](bytes(8_000_000))
    tracemalloc.start()
    message = Message(body=packed, headers={"compression": kind}, channel=None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(kind, message.body == packed, [str(error) for _, error, _ in message.errors])
    assert peak < 100_000, peak
"""


def test_no_process_unpacks_a_body() -> None:
    child = subprocess.run(
        [sys.executable, "-c", UNPACKED],
        capture_output=True,
        check=True,
        text=True,
    )

    assert child.stdout.splitlines() == [
        f"{kind} True ['compressed bodies are not accepted']" for kind in encoders()
    ]
