import subprocess
import sys

from allocation.messaging import garbage_collection

_PROGRAM = """
import gc
from allocation.messaging import garbage_collection

class Cyclic:
    def __init__(self):
        self.itself = self
    def __del__(self):
        print("collected")

garbage_collection.relax()
print(gc.get_threshold())
Cyclic()
"""


def test_a_process_collects_less_often_and_not_at_its_exit() -> None:
    program = [sys.executable, "-c", _PROGRAM]

    ended = subprocess.run(program, capture_output=True, text=True, timeout=30, check=True)

    assert ended.stdout.splitlines() == [str(garbage_collection.THRESHOLDS)]
