import pytest

from tests.docs.reader import Reader

pytestmark = pytest.mark.long


def test_the_example_of_the_subscriber_kit_runs_as_it_is_written(reader: Reader) -> None:
    reader.replace.clear()  # the page names its ports by variables
    reader.environment["ALLOCATION_STATE_DIR"] = "var"

    reader.read("docs/subscriber-kit.md")

    assert [process.running for process in reader.staying] == [True, True]
