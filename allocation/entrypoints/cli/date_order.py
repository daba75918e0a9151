"""How a CSV file writes local dates."""

from enum import StrEnum


class DateOrder(StrEnum):
    """ISO dates, 2026-12-31, are read with each."""

    DAY_FIRST = "day-first"
    MONTH_FIRST = "month-first"
