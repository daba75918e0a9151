"""Exit statuses of the command line, and the exception for output that nobody reads."""

FAILED = 1
MISUSED = 2
BROKEN_OFF = 130
NOBODY_READS = 141
"""It failed or does not hold; what was asked for makes no sense; Ctrl-C; as by SIGPIPE."""


class NobodyReads(Exception):
    """Standard output is a closed pipe. Not an OSError: neither database nor broker is at fault."""
