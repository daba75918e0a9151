"""`allocation check`: audits the books; `allocation.adapters.sql.audit` has the invariants."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from allocation.entrypoints.cli.terminal import FAILED, ask_database, console
from allocation.messaging.command_line import AsJson
from allocation.messaging.telemetry.escaping import escaped

if TYPE_CHECKING:
    from allocation.adapters.sql import audit


def check(as_json: AsJson = False) -> None:
    """Audit the books: one line for each invariant; exit status 1 if one is violated."""
    from allocation import bootstrap
    from allocation.adapters.sql import audit

    dependencies = bootstrap.build()
    settings = dependencies.settings

    def audited() -> list[audit.Result]:
        results = []
        audit_of = audit.run(dependencies.engine, settings.resend_after, calendar=settings.calendar)
        for result in audit_of:
            results.append(result)
            if not as_json:
                _print_result(result)
        return results

    results = ask_database(settings, audited)
    if as_json:
        rows = [asdict(result) | {"holds": result.holds} for result in results]
        console.print_json(data=rows)
    if not all(result.holds for result in results):
        raise typer.Exit(FAILED)


def _print_result(result: "audit.Result") -> None:
    verdict = "[green]holds [/green]" if result.holds else "[red]BROKEN[/red]"
    console.print(f"{verdict} {result.promise} ({result.examined} examined)")
    for violation in result.broken:
        console.print(f"         {escaped(str(violation))}", markup=False)
