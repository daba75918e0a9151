"""For the run of the description: what its schemas can't say.

Every Idempotency-Key that is well formed is a new one: the same key with another body is refused by
422, as it must be. An If-Match that is well formed is any version: another one is refused by 412,
as it must be. New ids are some that the format `identifier` takes.
"""

import re
from typing import Any
from uuid import uuid4

import schemathesis
from hypothesis import strategies as st

schemathesis.openapi.format(
    "identifier",
    st.from_regex(r"[a-zA-Z0-9é漢]([a-zA-Z0-9é漢 /.%-]{0,20}[a-zA-Z0-9é漢])?", fullmatch=True),
)

HEADER = "Idempotency-Key"


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    key = (case.headers or {}).get(HEADER)
    if isinstance(key, str) and 1 <= len(key) <= 255 and key.isascii() and key.isprintable():
        case.headers[HEADER] = str(uuid4())
    tag = (case.headers or {}).get("If-Match")
    if isinstance(tag, str) and re.fullmatch('"[!#-~]{1,100}"', tag):
        case.headers["If-Match"] = "*"
