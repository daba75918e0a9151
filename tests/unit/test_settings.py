import pytest
from pydantic import ValidationError

from allocation.settings import Settings

NAMES = [
    ("batch_size", "ALLOCATION_BATCH_SIZE", "ALLOCATION_GATHER_SIZE"),
    ("linger", "ALLOCATION_LINGER", "ALLOCATION_GATHER_WAIT"),
]


@pytest.mark.parametrize(("field", "name", "former_name"), NAMES)
def test_a_setting_is_read_by_its_name_or_else_by_its_former_name(
    monkeypatch: pytest.MonkeyPatch, field: str, name: str, former_name: str
) -> None:
    monkeypatch.setenv(name, "")
    monkeypatch.setenv(former_name, "1")
    by_former_name = getattr(Settings(), field)

    monkeypatch.setenv(name, "0.5" if field == "linger" else "5")
    by_both = getattr(Settings(), field)

    assert by_former_name == 1
    assert by_both == (0.5 if field == "linger" else 5)


@pytest.mark.parametrize("variable", [name for _, *names in NAMES for name in names])
def test_a_value_that_can_not_be_used_is_reported_by_the_variable_that_was_set(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "-1")

    with pytest.raises(ValidationError) as refused:
        Settings()

    [problem] = refused.value.errors()
    assert problem["loc"] == (variable.removeprefix("ALLOCATION_").lower(),)
