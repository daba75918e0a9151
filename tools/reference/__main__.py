"""Writes docs/reference/ anew: `python -m tools.reference`."""

from tools import reference


def main() -> None:
    """Write each page, and name it."""
    for name, text in reference.pages().items():
        (reference.FOLDER / name).write_text(text)
        print(f"docs/reference/{name}")


if __name__ == "__main__":
    main()
