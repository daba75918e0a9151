"""The tutorial: each of its blocks is run, and prints the stated output."""

from tests.docs.reader import Reader


def test_the_tutorial_goes_as_it_is_written_with_other_ports_and_another_folder(
    reader: Reader,
) -> None:
    """From a clone without state to a dead letter that took effect, and books that hold."""
    reader.replace.clear()  # it names its ports by variables, and they are not those of the page
    reader.environment["ALLOCATION_STATE_DIR"] = "kept/elsewhere"

    reader.read("docs/tutorial.md")

    page = reader.run("curl -sf http://127.0.0.1:$ALLOCATION_PORT/orders/order-1")
    assert "ship-7" in page.stdout
    assert [process.running for process in reader.staying] == [True, True]
    assert not (reader.folder / "var").exists()
