"""How much the matrix does: every number of commands and every pace, in one place.

FAULT_SCALE multiplies the numbers of commands, and slows the pace down when it is below 1: 0.2 is
for trying a scenario out, or for a machine that is busy with other things.
"""

import os

FACTOR = float(os.environ.get("FAULT_SCALE", "1"))

# Commands a second under which faults are injected, and ten times as many.
RATE = 20.0 * max(0.2, min(1.0, FACTOR))
HIGH_RATE = 10 * RATE
BACK_AT_WORK = 15.0  # seconds from the fault's end until a fresh command has reached everybody
STANDSTILL = 40.0  # seconds without any progress after which nothing more is waited for
DRAINED = 240.0  # seconds in which every backlog must be gone


def commands(number: int) -> int:
    """`number`, scaled; never fewer than 20."""
    return max(20, round(number * FACTOR))


def times(number: int) -> int:
    """How often a fault is repeated, scaled; once at least."""
    return max(1, round(number * min(1.0, FACTOR * 2)))
