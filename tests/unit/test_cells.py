"""Cells of CSV files are no formulas, and give the same text when they are read."""

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocation.views.cells import cell, text

FORMULAS = ["=1+1", "+1", "-1", "@x", "\t=1", "\r=1", "\n=1", " =1", "＝1", "'=1", "''-1"]


@pytest.mark.parametrize("given", FORMULAS)
def test_a_text_that_a_spreadsheet_would_calculate_begins_with_an_apostrophe(given: str) -> None:
    assert cell(given) == f"'{given}"


@pytest.mark.parametrize("given", ["LAMP", "a-1", "'tis", "'", "", "x=1", "SO/2026/001"])
def test_any_other_text_stays_as_it_is(given: str) -> None:
    assert cell(given) == given


@pytest.mark.parametrize("given", [-5, 0, 1.5, date(2030, 1, 31), None])
def test_what_is_no_text_stays_what_it_is(given: object) -> None:
    assert cell(given) is given


@given(st.text(st.sampled_from("'=+-@ab＝ "), max_size=6).filter(lambda text: text == text.strip()))
def test_a_cell_that_is_read_says_the_text_that_was_written(given: str) -> None:
    assert text(cell(given)) == given


@pytest.mark.parametrize("given", [" LAMP ", "\tLAMP\r\n", "\N{NO-BREAK SPACE}LAMP\N{EM SPACE}"])
def test_white_space_around_what_a_cell_says_is_dropped(given: str) -> None:
    assert text(given) == "LAMP"
