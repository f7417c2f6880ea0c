"""What a report draws: columns that stand where they should, and pictures that are what was heard."""

import datetime
import io
import itertools

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_lake import RATE, tone

from pipelines.page.charts import FULL, HALF, LETTER, PHONE, TOP, Columns, axis, short
from pipelines.page.pictures import MOST_COLUMNS, MOST_ROWS, picture
from pipelines.page.run_panels import periods
from pipelines.page.words import in_hours, length, seconds, size
from workers.spectrogram import Spectrogrammer
from workers.spectrogram_settings import SpectrogramSettings


@given(st.lists(st.lists(st.just(0.0) | st.floats(1e-3, 1e9), min_size=2, max_size=2), min_size=1, max_size=60))
@pytest.mark.parametrize("width", [FULL, HALF, PHONE])
def test_columns_stand_on_each_other_inside_the_drawing_as_tall_as_their_values(width, values):
    series = [("a", [one[0] for one in values]), ("b", [one[1] for one in values])]
    chart = Columns([str(place) for place in range(len(values))], series).drawn(width)
    top = chart.up[-1].at
    assert top >= TOP - 0.01
    for mark in chart.marks:
        assert mark.x >= 0
        assert mark.x + mark.width <= width + 0.01
        assert mark.y >= top - 0.01
        assert mark.y + mark.height <= chart.floor + 0.01
    heights = sum(mark.height for mark in chart.marks)
    total = sum(map(sum, values))
    most = max(map(sum, values))
    if total:
        tallest = max(sum(mark.height for mark in chart.marks if mark.x == x) for x in {mark.x for mark in chart.marks})
        assert heights / tallest == pytest.approx(total / most, rel=1e-6)


@pytest.mark.parametrize("width", [FULL, HALF, PHONE])
@pytest.mark.parametrize("count", [1, 7, 31, 45])
def test_labels_under_columns_never_touch(width, count):
    chart = Columns(["28 Feb"] * count, [("", [1.0] * count)]).drawn(width)
    places = [tick.at for tick in chart.across]
    assert places
    assert all(after - before >= len("28 Feb") * LETTER for before, after in itertools.pairwise(places))


@given(st.floats(1e-6, 1e12))
def test_an_axis_is_round_and_reaches_the_most(most):
    ticks = axis(most)
    assert ticks[0] == 0
    assert 3 <= len(ticks) <= 7
    assert ticks[-2] < most * (1 + 1e-6)
    assert ticks[-1] >= most * (1 - 1e-6)


def test_numbers_read_as_people_write_them():
    assert [short(value) for value in (0, 0.25, 20, 1500, 15000, 2.5e6)] == ["0", "0.25", "20", "1,500", "15k", "2.5M"]
    assert [length(value) for value in (5, 90, 7200)] == ["5 s", "1.5 min", "2 h"]
    assert [seconds(value) for value in (4.4, 125, 7290)] == ["4 s", "2 min 05 s", "2 h 01 min"]
    assert [size(value) for value in (1200, 5e6, 2e12)] == ["1 kB", "5.0 MB", "2.0 TB"]
    unit, text = in_hours([0.5, None])
    assert (unit, text(0.5)) == ("Minutes", "30.0")


def test_nights_without_a_run_have_their_place():
    day = datetime.date(2026, 2, 27)
    assert len(periods([day, day + datetime.timedelta(3)], "day")) == 4
    months = periods([datetime.date(2026, 1, 1), datetime.date(2026, 4, 1)], "month")
    assert [one.month for one in months] == [1, 2, 3, 4]


def pixels(png: bytes) -> np.ndarray:
    with av.open(io.BytesIO(png)) as media:
        return next(media.decode(video=0)).to_ndarray(format="gray")


@pytest.mark.parametrize("kind", ["log_mel", "power", "mfcc"])
def test_a_picture_is_as_big_as_a_screen_needs_whatever_was_heard(kind):
    for waveform in (tone(0.5, 12), tone(0.5, 0.05), np.zeros(RATE, np.float32)):
        values = Spectrogrammer(SpectrogramSettings(kind), RATE).compute(waveform)
        height, width = pixels(picture(values, kind)).shape
        assert height == min(values.shape[1], MOST_ROWS)
        assert width == min(values.shape[0], MOST_COLUMNS)


def test_a_picture_has_low_pitch_below_and_time_to_the_right():
    waveform = np.concatenate([tone(0.5, 1, 200), tone(0.5, 1, 6000)])
    seen = pixels(picture(Spectrogrammer(SpectrogramSettings("log_mel"), RATE).compute(waveform), "log_mel"))
    height, width = seen.shape
    assert np.argmax(seen[:, width // 4]) > height * 0.8
    assert np.argmax(seen[:, 3 * width // 4]) < height * 0.3
