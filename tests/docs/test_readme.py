"""The README and the pages that continue it: a test is named for each block."""

from kombu import Connection, Exchange, Queue

from allocation.adapters.rabbitmq import topology
from tests.docs.blocks import beginning, blocks
from tests.servers.processes import ROOT
from tests.waiting import eventually

README = "README.md"
SUBSCRIBER = "docs/add-a-subscriber.md"
ENQUEUE = "docs/enqueue.md"

HERE = "tests/docs/test_readme.py::"
CHAPTER = "tests/e2e/test_chapter.py::"
COMMANDS = "tests/docs/test_commands.py::test_the_commands_of_the_readme"
RUN_BY = {
    # `make demo` is this in an environment of its own; `make test` is what runs the tests.
    (
        README,
        "make demo",
    ): "tests/e2e/test_command_line.py::test_the_demo_plays_the_whole_story",
    (README, "curl -i http://127.0.0.1:5005/v1/batches"): COMMANDS,
    # By `make compose-test`: it takes a container engine.
    (README, "make env"): "tests/compose/test_stack.py::test_",
    (README, "from celery import Celery"): f"{CHAPTER}test_the_lines_of_the_readme_do_what_it_says",
    (README, "import json\nfrom kombu"): f"{CHAPTER}test_the_lines_of_the_readme_do_what_it_says",
    (
        ENQUEUE,
        "import json\nimport amqp",
    ): f"{CHAPTER}test_the_lines_for_systems_without_celery_change_a_batch",
    (
        SUBSCRIBER,
        "dead = Exchange",
    ): f"{HERE}test_what_a_subscriber_rejects_goes_to_a_queue_of_its_own",
    ("docs/import-and-export.md", "allocation import-batches"): COMMANDS,
    ("docs/warehouse-and-mails.md", "python -m workers.warehouse picks"): COMMANDS,
}
NOT_RUN = {
    (README, "flowchart LR"),  # a picture
    (ENQUEUE, "curl -i http://127.0.0.1:5005/v1/allocations"),  # as in the README
    (ENQUEUE, "const answer"),  # as in docs/clients-javascript.md
    (SUBSCRIBER, "rabbitmqctl"),  # its permissions are those of tests/integration/test_rights.py
}
PAGES = sorted({page for page, _ in RUN_BY})


def test_every_block_is_run_somewhere() -> None:
    begins = [*RUN_BY, *NOT_RUN]

    unknown = [
        (page, each.line)
        for page in PAGES
        for each in blocks(ROOT / page)
        if sum(each.text.strip().startswith(words) for at, words in begins if at == page) != 1
    ]
    gone = [where for where in RUN_BY.values() if not _is_there(where)]

    assert (unknown, gone) == ([], [])
    assert len(begins) == sum(len(blocks(ROOT / page)) for page in PAGES)


def _is_there(where: str) -> bool:
    path, _, test = where.partition("::")
    return f"def {test}" in (ROOT / path).read_text()


def test_what_a_subscriber_rejects_goes_to_a_queue_of_its_own(broker_url: str) -> None:
    given: dict[str, object] = {"Exchange": Exchange, "Queue": Queue}
    given["events"] = topology.events_exchange()
    exec(beginning(ROOT / SUBSCRIBER, "dead = Exchange").text, given)
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
