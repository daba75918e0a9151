"""Commands of `allocation` in the test's own process: a start costs more than the work of most.

Not for tests of a process: of its signals, its pipes, its memory, or its end in the middle.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from typer.testing import CliRunner, Result

from allocation.__main__ import command_line


def invoke(*arguments: str | Path, env: Mapping[str, str]) -> Result:
    """Run `allocation ARGUMENTS` with these settings alone, as in a pipe of 80 columns.

    The result's `output` is what it wrote to both standard output and standard error.
    """
    inherited = {name: None for name in os.environ if name.startswith("ALLOCATION_")}
    return CliRunner().invoke(
        command_line(),
        [str(argument) for argument in arguments],
        env={**inherited, "COLUMNS": "80", **env},
        catch_exceptions=False,
    )
