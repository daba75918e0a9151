"""The name under which a browser keeps a download (RFC 6266)."""

import re
import unicodedata
from urllib.parse import quote

from werkzeug.http import dump_options_header

# Each of these has a special meaning in file names, or is not allowed, on some system.
_UNSAFE = re.compile(r'[\x00-\x1f\x7f-\x9f\ud800-\udfff/\\:*?"<>|%]')
_PLAIN = "!#$&+-.^_`|~"  # allowed unencoded by RFC 8187, besides letters and digits


def attachment(name: str) -> str:
    """The Content-Disposition of a download called `name`.

    Characters that a file name can't have become underscores. A name beyond ASCII comes with an
    ASCII one, for clients that don't know `filename*`.
    """
    safe = _UNSAFE.sub("_", name)
    plain = unicodedata.normalize("NFKD", safe).encode("ascii", "ignore").decode("ascii")
    names = {"filename": plain}
    if plain != safe:
        names["filename*"] = f"UTF-8''{quote(safe, safe=_PLAIN)}"
    return dump_options_header("attachment", names)
