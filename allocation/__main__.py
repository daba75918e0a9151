"""The command `allocation`, which says so where the client alone is installed."""

import sys


def main() -> None:
    try:
        from allocation.entrypoints.cli import main as command_line
    except ModuleNotFoundError as error:
        if not error.name or error.name.partition(".")[0] in ("allocation", "workers"):
            raise
        sys.exit(f"{error.name} is missing: the service needs the extra, `allocation[server]`")
    command_line.main()


if __name__ == "__main__":
    main()
