"""The README: each of its blocks is run by the test that is named for it."""

from kombu import Connection, Exchange, Queue

from allocation.adapters.rabbitmq import topology
from tests.docs.blocks import beginning, blocks
from tests.servers.processes import ROOT
from tests.waiting import eventually

README = ROOT / "README.md"

HERE = "tests/docs/test_readme.py::"
CHAPTER = "tests/e2e/test_chapter.py::"
COMMANDS = "tests/docs/test_commands.py::test_the_commands_of_the_readme"
RUN_BY = {
    # `make demo` is this in an environment of its own; `make test` is what runs the tests.
    "make demo": "tests/e2e/test_command_line.py::test_the_demo_plays_the_whole_story",
    "curl -i http://127.0.0.1:5005/v1/batches": COMMANDS,
    # By `make compose-test`: it takes a container engine.
    "make env": "tests/compose/test_stack.py::test_",
    "from celery import Celery": f"{CHAPTER}test_the_lines_of_the_readme_do_what_it_says",
    "import json\nimport amqp": f"{CHAPTER}test_the_readmes_lines_for_systems_without_celery",
    "allocation import-batches": COMMANDS,
    "import json\nfrom kombu": f"{CHAPTER}test_the_lines_of_the_readme_do_what_it_says",
    "dead = Exchange": f"{HERE}test_what_a_subscriber_rejects_goes_to_a_queue_of_its_own",
    "python -m workers.warehouse picks": COMMANDS,
    "curl -i http://127.0.0.1:5005/v1/allocations": COMMANDS,
}
PICTURES = {"flowchart LR"}


def test_every_block_is_run_somewhere() -> None:
    """Each has one place where it is run, and each place is there."""
    begins = [*RUN_BY, *PICTURES]

    unknown = [
        each.line
        for each in blocks(README)
        if sum(each.text.startswith(words) for words in begins) != 1
    ]
    gone = [where for where in RUN_BY.values() if not _is_there(where)]

    assert (unknown, gone) == ([], [])
    assert len(begins) == len(blocks(README))


def _is_there(where: str) -> bool:
    path, _, test = where.partition("::")
    return f"def {test}" in (ROOT / path).read_text()


def test_what_a_subscriber_rejects_goes_to_a_queue_of_its_own(broker_url: str) -> None:
    """Declared with the README's arguments, on RabbitMQ."""
    given: dict[str, object] = {"Exchange": Exchange, "Queue": Queue}
    given["events"] = topology.events_exchange()
    exec(beginning(README, "dead = Exchange").text, given)
    mine, mine_dead = given["mine"], given["mine_dead"]
    assert isinstance(mine, Queue)
    assert isinstance(mine_dead, Queue)

    with Connection(broker_url) as connection:
        channel = connection.channel()
        mine_dead(channel).declare()
        mine(channel).declare()
        connection.Producer().publish(b"what?", exchange="allocation.events")
        eventually(lambda: mine(channel).get(), what="the message").reject()

        letter = eventually(lambda: mine_dead(channel).get(no_ack=True), what="the dead letter")

    assert (letter.body, letter.headers["x-first-death-queue"]) == (b"what?", "mine.events")
