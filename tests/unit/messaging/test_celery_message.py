from typing import Any
from uuid import UUID

import pytest
from celery import Celery

from allocation.messaging.celery_message import SLOTS, celery_message, slot

ID, ROOT, PARENT = (str(UUID(int=number)) for number in (1, 2, 3))
FIELDS: dict[str, Any] = {"orderid": "o1", "qty": 3, "lines": [{"sku": "é"}], "eta": None}


@pytest.mark.parametrize(
    ("given", "root_id", "parent_id"),
    [({}, ID, None), ({"root_id": ROOT, "parent_id": PARENT}, ROOT, PARENT)],
)
def test_it_is_the_message_that_celery_makes(
    given: dict[str, str], root_id: str, parent_id: str | None
) -> None:
    theirs = Celery("theirs").amqp.as_task_v2(
        *(ID, "shop.pay"), kwargs=FIELDS, root_id=root_id, parent_id=parent_id, ignore_result=True
    )

    ours = celery_message("shop.pay", ID, FIELDS, **given)

    assert ours.headers == theirs.headers
    assert ours.properties == theirs.properties
    assert ours.body == [[], FIELDS, {}]
    assert (theirs.body[1], set(theirs.body[2].values())) == (FIELDS, {None})


def test_monitoring_is_not_shown_all_of_long_arguments() -> None:
    message = celery_message("shop.pay", ID, {"note": "x" * 100_000})

    assert len(message.headers["kwargsrepr"]) == 1024
    assert message.body[1] == {"note": "x" * 100_000}


def test_messages_about_the_same_key_have_the_same_slot_which_is_one_word() -> None:
    slots = {slot(f"SKU-{number}") for number in range(2000)}

    assert slots == {f"slot-{number}" for number in range(SLOTS)}
    message = celery_message("shop.pay", ID, FIELDS, slot_by="RED-CHAIR")
    assert message.headers["CC"] == [slot("RED-CHAIR")] == ["slot-61"]


@pytest.mark.parametrize("key", ["\ud800", "é", ""])
def test_any_text_has_a_slot(key: str) -> None:
    assert slot(key).startswith("slot-")


@pytest.mark.parametrize("key", [None, 5, ["LAMP"]])
def test_what_is_no_text_has_none(key: object) -> None:
    assert "CC" not in celery_message("shop.pay", ID, FIELDS, slot_by=key).headers
