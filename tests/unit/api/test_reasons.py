"""The sentences for people, by reason."""

from allocation.adapters.rabbitmq.dead_letter_queues import REASONS
from allocation.entrypoints.api.http import problems
from allocation.entrypoints.api.pages import reasons


def test_every_reason_has_a_sentence_for_people() -> None:
    facts = dict.fromkeys(
        [
            *("sku", "batchref", "orderid", "qty", "known", "known_qty", "field", "problem"),
            *("strategy", "eta", "best_before"),
        ],
        "X",
    )
    ours = {reason for known in REASONS.values() for reason in known}

    for reason, kind in problems.KINDS.items():
        if kind.status == 409:
            assert reasons.refusal(reason, facts) == kind.with_facts.format(**facts) != ""
    assert ours - set(reasons.DEAD_LETTERS) == set()


def test_a_refusal_without_the_facts_of_its_sentence_is_said_in_general() -> None:
    assert reasons.refusal("batchref taken", {}) == "A batch with this reference already exists."
    assert reasons.refusal("too late", {}) == "The command was refused: too late."
