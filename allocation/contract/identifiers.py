"""The rule for ids that callers choose: order ids, skus and batch references."""

import unicodedata

FORMAT = "identifier"
"""The `format`, in the contract's schemas, of an id that a command introduces."""

_DOT_SEGMENTS = (".", "..")  # clients resolve them in a path, encoded or not (RFC 3986, 5.2.4)
_REFUSED = {
    "Cc": "a control character",
    "Cf": "an invisible character",
    "Zs": "a space character other than the plain space",
    "Zl": "a line separator",
    "Zp": "a paragraph separator",
    "Cs": "a character that is not Unicode text",
}
"""Unicode categories that a new id may not contain, except a plain space (U+0020) inside it."""


def trimmed(text: str) -> str:
    """The text without leading and trailing white space, no-break spaces included."""
    return text.strip()


def problem(text: str) -> str | None:
    """Return what is wrong with a new id, without quoting it, or None if it is valid.

    The rule excludes ids that look like another id. Empty text is left to the schema.
    """
    if text in _DOT_SEGMENTS:
        return "is a dot segment, which a path can't contain"
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
    """Return why no field of a message may hold this text, or None if it may.

    Ids that are looked up have no other rule, so that ids stored by older releases stay usable.
    """
    if text.isprintable():
        return None
    for character in text:
        if (category := unicodedata.category(character)) in ("Cc", "Cs"):
            return f"has {_REFUSED[category]} {_code(character)}"
    return None


def _code(character: str) -> str:
    return f"U+{ord(character):04X}"
