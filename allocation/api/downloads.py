"""The name under which a browser keeps a download (RFC 6266)."""

import re
import unicodedata
from urllib.parse import quote

from werkzeug.http import dump_options_header

# Some system takes each of these for something else than a part of a file's name.
_UNSAFE = re.compile(r'[\x00-\x1f\x7f-\x9f\ud800-\udfff/\\:*?"<>|%]')
_PLAIN = "!#$&+-.^_`|~"  # what RFC 8187 leaves as it is, beside letters and digits


def attachment(name: str) -> str:
    """The Content-Disposition of a download called `name`.

    What no file's name can have is an underscore; a name beyond ASCII comes with one in ASCII, for
    clients that read no other.
    """
    safe = _UNSAFE.sub("_", name)
    plain = unicodedata.normalize("NFKD", safe).encode("ascii", "ignore").decode("ascii")
    names = {"filename": plain}
    if plain != safe:
        names["filename*"] = f"UTF-8''{quote(safe, safe=_PLAIN)}"
    return dump_options_header("attachment", names)
