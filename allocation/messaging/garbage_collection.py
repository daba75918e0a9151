"""Python's cyclic garbage collector, as our processes use it."""

import atexit
import gc

THRESHOLDS = (10_000, 2, 4)
"""The thresholds of `gc.set_threshold`; Python's defaults are 700, 10 and 10.

The youngest objects are collected less often than by default, the oldest about as often.
"""


def relax() -> None:
    """Collect less often, and not at exit; call it before the other imports.

    The default collects some hundred times while the modules are imported, and three times when
    the process exits, over everything that they made: a third of what a short process costs.
    """
    gc.set_threshold(*THRESHOLDS)
    atexit.register(gc.freeze)
