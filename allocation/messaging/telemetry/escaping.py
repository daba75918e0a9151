"""Escapes untrusted text for terminals and logs."""


def escaped(text: str, *, lines: bool = False) -> str:
    r"""Replace each character that is not printable by its escape, such as `\x1b` for ESC.

    These are control characters, line ends and direction marks; `lines` keeps line ends and tabs.
    """
    if text.isprintable():
        return text
    kept = "\n\t" if lines else ""
    return "".join(
        character if character.isprintable() or character in kept else ascii(character)[1:-1]
        for character in text
    )
