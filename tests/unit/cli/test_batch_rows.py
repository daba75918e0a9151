"""CSV files of batches as spreadsheets write them: read right, or rejected by line and field."""

import os
from datetime import date
from io import BufferedReader, BytesIO

import pytest

from allocation.domain.commands import CreateBatch
from allocation.entrypoints.cli.batch_rows import BatchRows, Rejected, Row, Unreadable
from allocation.entrypoints.cli.date_order import DateOrder

B1 = CreateBatch("b1", "LAMP", 5)


def read(content: bytes | str, dates: DateOrder | None = None) -> list[object]:
    """The commands of the rows, and line, field and reason of those that are rejected."""
    data = content.encode() if isinstance(content, str) else content
    return [_told(row) for row in BatchRows(opened(data), dates)]


def opened(content: bytes) -> BufferedReader:
    return BufferedReader(BytesIO(content))


def _told(row: Row | Rejected) -> object:
    return row.message.command if isinstance(row, Row) else (row.line, row.field, row.reason)


@pytest.mark.parametrize(
    "content",
    [
        b"batchref,sku,qty\nb1,LAMP,5\n",
        b"batchref;sku;qty\nb1;LAMP;5\n",
        b"batchref\tsku\tqty\r\nb1\tLAMP\t5\r\n",
        b'"batchref";"sku";"qty"\n"b1";"LAMP";"5"\n',
        b"sep=;\r\nbatchref;sku;qty\r\nb1;LAMP;5\r\n",
        b'"sep=|"\nbatchref|sku|qty\nb1|LAMP|5\n',
        b"SEP=\t\nbatchref\tsku\tqty\nb1\tLAMP\t5\n",
        b"Batchref,SKU,Qty,Best Before\nb1,LAMP,5,\n",
        b"batchref,sku,qty,,\nb1,LAMP,5,,\n,,,,\n , ,\t,,\n\n",
        b"batchref,sku,qty,eta,best_before\nb1,LAMP,5\n",
        b"batchref,sku,qty\nb1,LAMP,5,,,\n",
        b"\xef\xbb\xbfbatchref,sku,qty\r\nb1,LAMP,5",
        b' batchref , sku,qty \n b1 , "LAMP",\xc2\xa05\xe2\x80\xaf\n',
        "\ufeffbatchref\tsku\tqty\r\nb1\tLAMP\t5\r\n".encode("utf-16-le"),
        "\ufeffbatchref\tsku\tqty\r\nb1\tLAMP\t5\r\n".encode("utf-16-be"),
    ],
)
def test_what_a_spreadsheet_writes_is_read(content: bytes) -> None:
    assert read(content) == [B1]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_pipe_may_deliver_the_first_byte_alone(encoding: str) -> None:
    content = "batchref,sku,qty\nb1,LAMP,5\n".encode(encoding)
    reading, writing = os.pipe2(os.O_DIRECT)  # each write is one read
    os.write(writing, content[:1])
    os.write(writing, content[1:])
    os.close(writing)

    with open(reading, "rb") as pipe:
        rows = BatchRows(pipe)
        told = [_told(row) for row in rows]

    assert told == [B1]
    assert rows.has_byte_order_mark == (encoding != "utf-8")


@pytest.mark.parametrize("qty", ["5", "5.0", "5.00", "5,0", "5,00", " 5 "])
def test_a_number_with_decimals_that_are_zero_is_whole(qty: str) -> None:
    assert read(f"batchref;sku;qty\nb1;LAMP;{qty}\n") == [B1]


@pytest.mark.parametrize(
    ("qty", "reason"),
    [
        ("", "is empty"),
        ("5.5", "is not a whole number"),
        ("5,", "is not a whole number"),
        ("5e2", "is not a whole number"),
        ("+5", "is not a whole number"),
        ("٥", "is not a whole number"),
        ("0,00", "the value is less than the minimum of 1"),
        *(
            (
                text,
                f"{text} may have a thousands separator or decimals: write {number} if it is"
                " that many",
            )
            for text, number in {
                "1.000": 1000,
                "1,000": 1000,
                "1 000": 1000,
                "1\xa0000": 1000,
                "12'500": 12500,
                "1.000,00": 1000,
                "1,234,567.5": 1234567,
            }.items()
        ),
    ],
)
def test_a_number_that_could_be_another_one_is_rejected(qty: str, reason: str) -> None:
    content = f"batchref;sku;qty\nb0;LAMP;{qty}\nb1;LAMP;5\n"

    assert read(content) == [(2, "qty", reason), B1]


def arriving(*days: str, order: DateOrder | None = None) -> list[object]:
    rows = "".join(f"b1,LAMP,5,{day}\n" for day in days)
    return [
        row.eta if isinstance(row, CreateBatch) else row
        for row in read(f"batchref,sku,qty,eta\n{rows}", order)
    ]


def test_local_dates_are_read_in_the_order_that_is_given_alone() -> None:
    day_first = arriving("31.12.2026", "1/2/2026", "01-02-2026", order=DateOrder.DAY_FIRST)
    month_first = arriving("12/31/2026", "1/2/2026", "01-02-2026", order=DateOrder.MONTH_FIRST)
    iso = [arriving("2026-12-31", "", order=order) for order in (None, *DateOrder)]

    assert day_first == [date(2026, 12, 31), date(2026, 2, 1), date(2026, 2, 1)]
    assert month_first == [date(2026, 12, 31), date(2026, 1, 2), date(2026, 1, 2)]
    assert iso == [[date(2026, 12, 31), None]] * 3


def test_a_date_that_could_be_another_one_is_rejected() -> None:
    unknown = "may begin with the day or the month: write YYYY-MM-DD, or say"
    unknown += " `--dates day-first` or `--dates month-first`"

    assert arriving("31.12.2026", "12/31/2026", "31.12.26", "46387", "2026-12-31 00:00") == [
        (2, "eta", f"31.12.2026 {unknown}"),
        (3, "eta", f"12/31/2026 {unknown}"),
        (4, "eta", "31.12.26 has a year of two digits: write YYYY-MM-DD"),
        (5, "eta", "is not a date: write YYYY-MM-DD"),
        (6, "eta", "is not a date: write YYYY-MM-DD"),
    ]
    assert arriving("12/31/2026", "31/12/26", "1.2/2026", order=DateOrder.DAY_FIRST) == [
        (2, "eta", "12/31/2026 is not a date with the day first"),
        (3, "eta", "31/12/26 has a year of two digits: write YYYY-MM-DD"),
        (4, "eta", "is not a date: write YYYY-MM-DD"),
    ]
    assert arriving("31/12/2026", "01.02.2026", order=DateOrder.MONTH_FIRST) == [
        (2, "eta", "31/12/2026 is not a date with the month first"),
        (3, "eta", "01.02.2026 is not a date with the month first"),
    ]


def test_unknown_columns_are_ignored_and_named() -> None:
    content = b"Note,batchref,sku,qty,line,Note,Colour\nx,b1,LAMP,5,7,y,red\n"

    rows = BatchRows(opened(content))

    assert rows.ignored == ("Note", "Note", "Colour")
    assert [_told(row) for row in rows] == [B1]


def test_a_value_that_no_column_is_named_for_is_rejected() -> None:
    content = b"batchref,sku,qty,\nb0,LAMP,1,000\nb0,LAMP,5,,x\nb1,LAMP,5\n"

    assert read(content) == [
        (2, "", "the header names no column 4, which has the value 000"),
        (3, "", "the header names no column 5, which has the value x"),
        B1,
    ]


def test_a_cell_that_is_ignored_may_have_line_breaks_and_rows_have_the_line_they_begin_on() -> None:
    content = 'batchref,sku,qty,Note\nb1,LAMP,5,"one\ntwo ""three""\n\n"\nb0,LAMP,x,\n'

    assert read(content) == [B1, (6, "qty", "is not a whole number")]


def test_a_quote_that_is_not_closed_costs_its_own_line_alone() -> None:
    unclosed = "a quote is not closed on its line"
    inside = 'batchref,sku,qty,Note\nb0,"LAMP,5,\nb1,LAMP,5,\nb0,LAMP",5,\nb1,LAMP,5,\n'
    to_the_end = 'batchref,sku,qty,Note\nb0,LAMP,5,"one\nb1,LAMP,5,\n'
    far = 'batchref,sku,qty,Note\nb0,LAMP,5,"one\n' + "b1,LAMP,5,\n" * 10_000 + '","\n'

    assert read(inside) == [(2, "", unclosed), B1, CreateBatch("b0", 'LAMP"', 5), B1]
    assert read(to_the_end) == [(2, "", unclosed), B1]
    assert read(far)[:10_001] == [(2, "", unclosed), *[B1] * 10_000]


def test_the_same_facts_have_the_same_id_however_they_are_written() -> None:
    plain = BatchRows(opened(b"batchref,sku,qty,eta\nb1,LAMP,5,2026-12-31\n"))
    local = BatchRows(
        opened("ETA\tQty\tSKU\tBatchref\n31.12.2026\t5,00\tLAMP\tb1".encode("utf-16")),
        DateOrder.DAY_FIRST,
    )

    [one], [other] = list(plain), list(local)

    assert isinstance(one, Row)
    assert isinstance(other, Row)
    assert one.message == other.message


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"sep=;\n", "line 2 is empty: it must name the columns, batchref,sku,qty,eta,best_before"),
        (
            b"sep=,\nbatchref;sku;qty\n",
            "line 2: the column batchref is missing; the header has batchref;sku;qty",
        ),
        (
            b"batchref;sku;quantity\n",
            "line 1: the column qty is missing; the header has batchref, sku, quantity",
        ),
        (b"batchref;sku;qty;QTY\n", "line 1: the column qty appears twice"),
        (
            b"a;batchref;sku;qty;b,batchref,sku,qty,c\n",
            "line 1: the header can be read by commas and by semicolons: write `sep=` and the"
            " delimiter into a line before it",
        ),
        (
            "batchref,sku,qty\n".encode("utf-16-le"),
            "line 1 has NUL characters, as in UTF-16 without a byte order mark:"
            " save it as “CSV UTF-8”",
        ),
        ("batchref,sku,qty\n".encode("utf-32"), "it is UTF-32: save it as “CSV UTF-8”"),
        (
            "\ufeffbatchref,sku,qty\n".encode("utf-16-le") + b"\x00\xd8\n",
            "line 2 or one after it is not UTF-16, as the byte order mark says:"
            " save it as “CSV UTF-8”",
        ),
    ],
)
def test_a_file_that_cannot_be_understood_is_refused_with_what_to_do(
    content: bytes, sentence: str
) -> None:
    with pytest.raises(Unreadable) as refused:
        read(content)

    assert str(refused.value) == sentence


def test_a_line_that_is_too_long_is_rejected_alone() -> None:
    content = f"batchref,sku,qty\n{'endless' * 30_000},LAMP,5\nb1,LAMP,5\n"

    assert read(content) == [(2, "", "the line has more than 65536 characters"), B1]
