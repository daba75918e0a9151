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
    """Prove the books: one line a promise; exit status 1 when one does not hold."""
    from allocation import bootstrap
    from allocation.adapters.sql import audit

    dependencies = bootstrap.build()
    settings = dependencies.settings

    def proved() -> list[audit.Result]:
        proofs = []
        for proof in audit.run(dependencies.engine, settings.resend_after):
            proofs.append(proof)
            if not as_json:
                _print_proof(proof)
        return proofs

    proofs = ask_database(settings, proved)
    if as_json:
        rows = [asdict(proof) | {"holds": proof.holds} for proof in proofs]
        console.print_json(data=rows)
    if not all(proof.holds for proof in proofs):
        raise typer.Exit(FAILED)


def _print_proof(proof: "audit.Result") -> None:
    verdict = "[green]holds [/green]" if proof.holds else "[red]BROKEN[/red]"
    console.print(f"{verdict} {proof.promise} ({proof.examined} examined)")
    for breach in proof.broken:
        console.print(f"         {escaped(str(breach))}", markup=False)
