"""Parts of a file read as the bytes in them, one behind the other."""

import io
import random

import pytest

from workers.parts import parts_of

WHOLE = bytes(random.Random(3).randbytes(100_000))


@pytest.fixture(params=["in memory", "on disk"])
def whole(request, tmp_path):
    if request.param == "in memory":
        yield io.BytesIO(WHOLE)
        return
    (tmp_path / "whole").write_bytes(WHOLE)
    with open(tmp_path / "whole", "rb") as file:
        yield file


@pytest.mark.parametrize("spans", [[(0, 100_000)], [(7, 99_000)], [(0, 10), (50, 51), (70, 70), (20_000, 90_001)]])
def test_parts_of_a_file_read_as_if_nothing_were_between_them(whole, spans):
    expected = b"".join(WHOLE[begin:end] for begin, end in spans)
    parts = parts_of(whole, spans)
    assert parts.read() == expected
    assert parts.seek(0, io.SEEK_END) == len(expected)
    assert parts.read(10) == b""
    rng = random.Random(5)
    for _ in range(200):
        place, length = rng.randrange(len(expected) + 100), rng.randrange(30_000)
        assert parts.seek(place) == place
        assert parts.read(length) == expected[place : place + length]
        assert parts.tell() == max(place, min(place + length, len(expected)))
    parts.seek(5)
    assert parts.seek(3, io.SEEK_CUR) == 8
    assert parts.seek(-4, io.SEEK_END) == len(expected) - 4
    assert parts.read() == expected[-4:]


def test_nothing_is_before_the_start(whole):
    with pytest.raises((OSError, ValueError), match=r"before the start|negative seek"):
        parts_of(whole, [(10, 20)]).seek(-1)
