import subprocess
import sys

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from allocation.adapters.sql.migrations import MIGRATIONS as SERVICE
from allocation.messaging.migrations import Migrations
from workers.notification.running import MIGRATIONS as NOTIFICATION
from workers.warehouse.running import MIGRATIONS as WAREHOUSE


@pytest.mark.parametrize(
    "migrations", [SERVICE, WAREHOUSE, NOTIFICATION], ids=["service", "warehouse", "notification"]
)
def test_the_names_of_the_files_give_the_revisions_in_alembics_order(
    migrations: Migrations,
) -> None:
    config = Config()
    config.set_main_option("script_location", str(migrations.folder))
    newest_first = [each.revision for each in ScriptDirectory.from_config(config).walk_revisions()]

    assert migrations.revisions() == newest_first[::-1]


def test_no_process_imports_alembic_to_start() -> None:
    program = """
import sys
from allocation.entrypoints import inbound, relay
from allocation.entrypoints.api import app
from allocation.entrypoints.worker import app
from workers.notification import running
from workers.warehouse import running
sys.exit("alembic" in sys.modules)
"""

    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
