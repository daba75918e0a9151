"""Writes .env from .env.example, with a random value for each secret: `make env`."""

import os
import re
import secrets
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def filled_in(example: str) -> str:
    """`example` with a value of 128 random bits behind each name that has none.

    Hexadecimal digits need no quoting, neither by compose nor in a URL.
    """
    return re.sub(
        r"^([A-Z_]+)=$",
        lambda name: f"{name[1]}={secrets.token_hex(16)}",
        example,
        flags=re.MULTILINE,
    )


def main() -> None:
    """Write it into the current folder, for its owner alone; an existing one stays as it is."""
    target = Path(".env")
    try:
        file = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        sys.exit(
            f"{target} exists, and is left as it is: its secrets may be in use;"
            " rename it to make new ones"
        )
    with os.fdopen(file, "w") as opened:
        opened.write(filled_in((ROOT / ".env.example").read_text()))
    print(f"{target} has a random value for each secret.")


if __name__ == "__main__":
    main()
