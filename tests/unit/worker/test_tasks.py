from allocation.contract import registry
from allocation.entrypoints.worker.tasks import TASKS


def test_each_command_of_the_contract_has_one_task_under_its_name() -> None:
    assert sorted(task.name for task in TASKS) == sorted(registry.COMMANDS)
