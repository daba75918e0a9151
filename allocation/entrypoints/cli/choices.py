"""What options of the command line choose from; these modules import nothing."""

from enum import StrEnum


class Scope(StrEnum):
    """What a key is good for, as `adapters.api_keys` names it."""

    READ = "read"
    WRITE = "write"


class DateOrder(StrEnum):
    """How the file writes local dates; ISO dates, 2026-12-31, are read with each."""

    DAY_FIRST = "day-first"
    MONTH_FIRST = "month-first"
