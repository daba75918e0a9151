"""For the run of the description: every Idempotency-Key that is well formed is a new one.

The same key with another body is refused by 422, as it must be, and no schema can say so.
"""

from typing import Any
from uuid import uuid4

import schemathesis

HEADER = "Idempotency-Key"


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    key = (case.headers or {}).get(HEADER)
    if isinstance(key, str) and 1 <= len(key) <= 255 and key.isascii() and key.isprintable():
        case.headers[HEADER] = str(uuid4())
