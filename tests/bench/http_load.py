"""Callers of the API, a process of some threads: `python -m tests.bench.http_load PORT`.

Each thread keeps its connection and asks again as soon as it has its answer. Bodies are made by
putting numbers into ready text.
"""

import http.client
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from tests.bench.helper import serve

THREADS = 4
WAITED = "waited"
"""Stands behind the status of a response for which its request waited."""
_HEADERS = {"Content-Type": "application/json"}
_LINE = '{"orderid": "%s", "sku": "SKU-%04d", "qty": 1}'


def call(
    port: int, prefix: str, lines: int, until: float, prefer: str | None
) -> tuple[Counter[str], bytes, list[float]]:
    """How often each status came, the last body, and the seconds that each response took."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = _HEADERS | ({"Prefer": prefer} if prefer else {})
    statuses: Counter[str] = Counter()
    answer = b""
    took = []
    sent = 0
    while (began := time.time()) < until:
        orders = [_LINE % (f"{prefix}{sent + n}", (sent + n) % 1000) for n in range(lines)]
        sent += lines
        body = orders[0] if lines == 1 else '{"lines": [%s]}' % ", ".join(orders)  # noqa: UP031
        connection.request("POST", "/v1/allocations", body.encode(), headers)
        response = connection.getresponse()
        answer = response.read()
        took.append(time.time() - began)
        waited = response.headers["Preference-Applied"]
        statuses[f"{response.status} {WAITED}" if waited else str(response.status)] += 1
    connection.close()
    return statuses, answer, took


def main(port: int) -> None:
    def run(
        prefix: str, lines: int, until: float, threads: int = THREADS, prefer: str | None = None
    ) -> dict[str, object]:
        """Ask until that moment: the statuses, one answer, how long each took, begin and end."""
        begun = time.time()
        with ThreadPoolExecutor(threads) as pool:
            calls = [
                pool.submit(call, port, f"{prefix}{thread}-", lines, until, prefer)
                for thread in range(threads)
            ]
            results = [each.result() for each in calls]
        statuses = sum((counted for counted, _, _ in results), Counter[str]())
        return {
            "statuses": dict(statuses),
            "answer": results[0][1].decode(),
            "took": [seconds for _, _, each in results for seconds in each],
            "begun": begun,
            "ended": time.time(),
        }

    serve(run=run)


if __name__ == "__main__":
    main(int(sys.argv[1]))
