from allocation.entrypoints.worker import retries


def test_the_longest_delay_doubles_with_each_retry_up_to_a_minute() -> None:
    found = [{retries.delay(count) for _ in range(2000)} for count in (0, 1, 2, 3, 12)]

    assert [(min(each), max(each)) for each in found] == [(1, 1), (1, 2), (1, 4), (1, 8), (1, 60)]


def test_the_delay_is_the_longest_where_counting_stops_while_the_storage_is_unusable() -> None:
    assert max(retries.delay(retries.UNUSABLE_RETRIES) for _ in range(2000)) == 60


def test_the_delays_of_all_retries_are_about_seven_minutes_at_most() -> None:
    longest = [max(retries.delay(count) for _ in range(2000)) for count in range(12)]

    assert (len(longest), sum(longest)) == (retries.MAX_RETRIES, 423)
