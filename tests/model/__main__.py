"""`python -m tests.model`: each variant, what the search found, and the shortest story if any."""

import sys

from tests.model.variants import CONTROLS, HOLDING, Control


def main() -> bool:
    """Print the table; returns whether each variant is as expected."""
    print(f"{'':8} {'states':>9} {'seconds':>7}  variant [bounds]")
    is_as_expected = True
    for variant in (*HOLDING, *CONTROLS):
        verdict = variant.search()
        found = "refuted" if verdict.broken else "holds"
        print(
            f"{found:8} {verdict.states:9,} {verdict.seconds:7.1f}  {variant} [{variant.bounds}]",
            flush=True,
        )
        if verdict.broken:
            print(f"{'':28}not {verdict.broken}")
            print("".join(f"{'':28}{line}\n" for line in verdict.lines()))
        expected = variant.breaks.__name__ if isinstance(variant, Control) else None
        is_as_expected = is_as_expected and verdict.broken == expected
    return is_as_expected


if __name__ == "__main__":
    sys.exit(not main())
