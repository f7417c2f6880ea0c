"""How full batches are is booked where they are made."""

from workers.models import windows
from workers.models.batching import Budget, run_batched
from workers.models.fill import take_fill


def test_padding_and_room_are_booked_batch_by_batch_and_taken_once() -> None:
    take_fill()
    run_batched([10, 6, 4], Budget(20), lambda some, width: some, stepped=False)
    fill = take_fill()  # 10 and 6 as 10, then 4
    assert (fill.used, fill.padded, fill.room) == (20, 24, 40)
    assert take_fill().room == 0


def test_a_clip_that_is_longer_than_the_budget_fills_its_batch() -> None:
    take_fill()
    run_batched([50], Budget(20), lambda some, width: some, stepped=False)
    fill = take_fill()
    assert (fill.used, fill.padded, fill.room) == (50, 50, 50)


def test_windows_are_booked_by_the_batch_too() -> None:
    take_fill()
    assert len(list(windows.in_batches([3, 2], Budget(4), lambda pieces: pieces))) == 2
    fill = take_fill()
    assert (fill.used, fill.padded, fill.room) == (5, 5, 8)
