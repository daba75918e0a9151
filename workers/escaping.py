"""Text from outside, made harmless for terminals and logs."""


def escaped(text: str, *, lines: bool = False) -> str:
    r"""The text with `\x1b` for ESC and so on: every character that is not printable.

    These are control characters, line ends and marks of direction; with `lines`, line ends and tabs
    stay.
    """
    if text.isprintable():
        return text
    kept = "\n\t" if lines else ""
    return "".join(
        character if character.isprintable() or character in kept else ascii(character)[1:-1]
        for character in text
    )
