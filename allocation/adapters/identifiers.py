"""Ids that callers choose: what a new order id, sku or batch reference may look like."""

import unicodedata

FORMAT = "identifier"
"""The `format` that the contract's schemas give to an id that a command brings into the books."""

_DOT_SEGMENTS = (".", "..")  # clients resolve them in a path, encoded or not (RFC 3986, 5.2.4)
_REFUSED = {
    "Cc": "a control character",
    "Cf": "an invisible character",
    "Zs": "a blank that is not a plain space",
    "Zl": "a line separator",
    "Zp": "a paragraph separator",
    "Cs": "a character that is not Unicode text",
}
"""Categories of characters that a new id has none of; a plain space is fine inside."""


def trimmed(text: str) -> str:
    """The text as a person typed it, without the white space around it, no-break spaces too."""
    return text.strip()


def problem(text: str) -> str | None:
    """Say what is wrong with a new id, without repeating it; None if nothing is.

    Ids that look the same are to be the same. An empty text is left to the schema.
    """
    if text in _DOT_SEGMENTS:
        return "is a dot segment, which no path can carry"
    if text != trimmed(text):
        where = "beginning" if text != text.lstrip() else "end"
        return f"has white space at its {where}" if trimmed(text) else "is only white space"
    if text.isascii() and text.isprintable():
        return None
    for character in text:
        if character != " " and (what := _REFUSED.get(unicodedata.category(character))):
            return f"has {what} {_code(character)}"
    if not unicodedata.is_normalized("NFC", text):
        return "is not in Unicode's composed form (NFC)"
    return None


def unstorable(text: str) -> str | None:
    """Say why no text of a message may be this one; None if it may.

    An id that is looked up has no other rule: what older releases stored stays usable.
    """
    if text.isprintable():
        return None
    for character in text:
        if (category := unicodedata.category(character)) in ("Cc", "Cs"):
            return f"has {_REFUSED[category]} {_code(character)}"
    return None


def _code(character: str) -> str:
    return f"U+{ord(character):04X}"
