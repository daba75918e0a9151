"""Exit statuses of the command line, and the exception for standard output that was closed."""

FAILED = 1
MISUSED = 2
BROKEN_OFF = 130
NOBODY_READS = 141
"""In this order: it failed or does not hold; wrong usage; Ctrl-C; a closed pipe, as by SIGPIPE."""


class NobodyReads(Exception):
    """Standard output is a closed pipe. Not an OSError: neither database nor broker is at fault."""
