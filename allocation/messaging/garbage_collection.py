"""Python's cyclic garbage collector, as our processes use it."""

import atexit
import gc

THRESHOLD = 10_000
"""New containers between two collections of the youngest; Python's default is 700."""


def relax() -> None:
    """Collect less often, and not at exit; call it before the other imports.

    The default collects some hundred times while the modules are imported, and three times when
    the process exits, over everything that they made: a third of what a short process costs.
    """
    gc.set_threshold(THRESHOLD)
    atexit.register(gc.freeze)
