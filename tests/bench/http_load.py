"""Callers of the API, a process of a few threads: `python -m tests.bench.http_load PORT`.

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
_HEADERS = {"Content-Type": "application/json"}
_LINE = '{"orderid": "%s", "sku": "SKU-%04d", "qty": 1}'


def call(port: int, prefix: str, lines: int, until: float) -> tuple[Counter[int], bytes]:
    """How often each status came, and the last body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    statuses: Counter[int] = Counter()
    answer = b""
    sent = 0
    while time.time() < until:
        orders = [_LINE % (f"{prefix}{sent + n}", (sent + n) % 1000) for n in range(lines)]
        sent += lines
        body = orders[0] if lines == 1 else '{"lines": [%s]}' % ", ".join(orders)  # noqa: UP031
        connection.request("POST", "/v1/allocations", body.encode(), _HEADERS)
        response = connection.getresponse()
        answer = response.read()
        statuses[response.status] += 1
    connection.close()
    return statuses, answer


def main(port: int) -> None:
    def run(prefix: str, lines: int, until: float) -> dict[str, object]:
        """Ask until that moment: the statuses, one answer, when it began and ended."""
        begun = time.time()
        with ThreadPoolExecutor(THREADS) as threads:
            calls = [
                threads.submit(call, port, f"{prefix}{thread}-", lines, until)
                for thread in range(THREADS)
            ]
            results = [each.result() for each in calls]
        statuses = sum((counted for counted, _ in results), Counter())
        return {
            "statuses": {str(status): number for status, number in statuses.items()},
            "answer": results[0][1].decode(),
            "begun": begun,
            "ended": time.time(),
        }

    serve(run=run)


if __name__ == "__main__":
    main(int(sys.argv[1]))
