import ast
from collections import defaultdict
from pathlib import Path

from tests.servers.processes import ROOT

LINES = 10


def code_of(module: Path) -> list[str]:
    """The lines of a module without blank ones, comments and imports."""
    text = module.read_text()
    imports = {
        number
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for number in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    lines = [
        line.strip() for number, line in enumerate(text.splitlines(), 1) if number not in imports
    ]
    return [line for line in lines if line and not line.startswith("#")]


def test_no_two_modules_share_ten_lines() -> None:
    found: dict[tuple[str, ...], set[str]] = defaultdict(set)
    # A migration that was released stays as it is, whatever becomes of the code beside it.
    modules = [
        module
        for package in ("allocation", "workers")
        for module in (ROOT / package).rglob("*.py")
        if "versions" not in module.parts
    ]

    for module in modules:
        lines = code_of(module)
        for start in range(len(lines) - LINES + 1):
            found[tuple(lines[start : start + LINES])].add(str(module.relative_to(ROOT)))

    assert len(modules) > 150
    assert {tuple(sorted(where)) for where in found.values() if len(where) > 1} == set()
