"""A supervisor of shell commands: `python -m tests.e2e.supervised GRACE NAME=COMMAND ...`.

A command whose name ends with `?` is never ready.
"""

import os
import sys

from allocation.entrypoints.cli.supervisor import Command, Supervisor


def main() -> None:
    """Run them, and end with status 1 if one stopped by itself."""
    grace, *commands = sys.argv[1:]
    supervisor = Supervisor(
        [
            Command(
                name,
                ["sh", "-c", command],
                os.environ,
                is_ready=lambda _started, name=name: not name.endswith("?"),  # type: ignore[misc]
            )
            for name, _, command in (each.partition("=") for each in commands)
        ],
        announce=lambda waiting: f"Not ready: {', '.join(waiting) or 'none'}.",
        grace=float(grace),
        start_time=float(os.environ.get("START_TIME", "30")),
    )
    supervisor.run()
    sys.exit(1 if supervisor.broke else 0)


if __name__ == "__main__":
    main()
