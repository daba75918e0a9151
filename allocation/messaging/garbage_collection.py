"""Python's cyclic garbage collector, as our processes use it."""

import atexit
import gc

THRESHOLDS = (10_000, 2, 4)
"""After so many new containers the youngest are collected, with so many collections the next older.

Python's default is 700, 10 and 10: all are collected about as often, the youngest seldom.
"""


def relax() -> None:
    """Collect less often, and not at exit; call it before the other imports.

    The default collects some hundred times while the modules are imported, and three times when
    the process exits, over everything that they made: a third of what a short process costs.
    """
    gc.set_threshold(*THRESHOLDS)
    atexit.register(gc.freeze)
