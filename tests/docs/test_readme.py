"""The README: each of its blocks is run, here or by the test that is named for it."""

import json

from kombu import Connection, Exchange, Queue

from allocation.adapters import topology
from tests.docs.blocks import Block, blocks, says
from tests.docs.reader import Reader
from tests.servers.processes import ROOT
from tests.waiting import eventually

README = ROOT / "README.md"

HERE = {
    "curl -i http://127.0.0.1:5005/v1/batches",
    "curl -i http://127.0.0.1:5005/v1/allocations",
    "allocation import-batches",
    "python -m workers.warehouse picks",
    "dead = Exchange",
}
CHAPTER = "tests/e2e/test_chapter.py::"
ELSEWHERE = {
    # `make demo` is this in an environment of its own; `make test` is what runs the tests.
    "make demo": "tests/e2e/test_command_line.py::test_the_demo_plays_the_whole_story",
    # By `make compose-test`: it takes a container engine.
    "cp .env.example .env": "tests/compose/test_stack.py::test_",
    "from celery import Celery": f"{CHAPTER}test_the_lines_of_the_readme_do_what_it_says",
    "import json\nimport amqp": f"{CHAPTER}test_the_readmes_lines_for_systems_without_celery",
    "import json\nfrom kombu": f"{CHAPTER}test_the_lines_of_the_readme_do_what_it_says",
}
PICTURES = {"flowchart LR"}


def block(words: str) -> Block:
    """The README's one block that begins with these words."""
    [found] = [each for each in blocks(README) if each.text.startswith(words)]
    return found


def test_every_block_is_run_somewhere() -> None:
    """Each has one place where it is run, and each place is there."""
    begins = [*HERE, *ELSEWHERE, *PICTURES]

    unknown = [
        each.line
        for each in blocks(README)
        if sum(each.text.startswith(words) for words in begins) != 1
    ]
    gone = [where for where in ELSEWHERE.values() if not _is_there(where)]

    assert (unknown, gone) == ([], [])
    assert len(begins) == len(blocks(README))


def _is_there(where: str) -> bool:
    path, _, test = where.partition("::")
    return f"def {test}" in (ROOT / path).read_text()


def test_the_commands_do_what_the_readme_says(reader: Reader) -> None:
    """On the service as `make up` starts it: order, import, pick, dispatch, many lines."""
    reader.stay("make up", "The API is ready at")

    ordered = reader.run(block("curl -i http://127.0.0.1:5005/v1/batches").text)
    assert ordered.returncode == 0
    assert ordered.stdout.count("HTTP/1.1 201 CREATED") == 2
    assert json.loads(ordered.stdout.splitlines()[-1])["lines"][0]["batchref"] == "shipment-77"

    shipments = "batchref,sku,qty,eta\nshipment-78,LAMP,5,2030-01-31\nshipment-79,LAMP,x,\n"
    (reader.folder / "shipments.csv").write_text(shipments)
    tried, imported = _each_line(reader, "allocation import-batches")
    assert (tried[0], imported[0]) == (1, 1)
    assert (reader.folder / "wrong.csv").read_text().splitlines()[1:] == [
        "3,qty: is not a whole number,shipment-79,LAMP,x,"
    ]
    there = reader.run("curl -s http://127.0.0.1:5005/v1/products/LAMP")
    assert [batch["batchref"] for batch in json.loads(there.stdout)["batches"]] == ["shipment-78"]

    picks = "python -m workers.warehouse picks --orderid order-1 --json"
    eventually(lambda: json.loads(reader.run(picks).stdout), what="the pick of order-1")
    listed, dispatched, again = _each_line(reader, "python -m workers.warehouse picks")
    assert (listed[0], dispatched[0], again[0]) == (0, 0, 1)
    assert "shipment-77" in listed[1]

    command, _, stated = block("curl -i http://127.0.0.1:5005/v1/allocations").text.partition(
        "\n\n"
    )
    answered = reader.run(command)
    whole = stated.replace("...}", '"...": "..."}')
    assert says(Block(0, "json", whole), answered.stdout.splitlines()[-1]), answered.stdout


def _each_line(reader: Reader, words: str) -> list[tuple[int, str]]:
    """Exit status and output of each line of the block with these words."""
    done = [reader.run(line) for line in block(words).text.splitlines()]
    return [(each.returncode, each.stdout) for each in done]


def test_what_a_subscriber_rejects_goes_to_a_queue_of_its_own(broker_url: str) -> None:
    """Declared with the README's arguments, on RabbitMQ."""
    given: dict[str, object] = {"Exchange": Exchange, "Queue": Queue}
    given["events"] = topology.events_exchange()
    exec(block("dead = Exchange").text, given)
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
