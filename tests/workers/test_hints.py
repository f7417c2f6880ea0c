"""What a manifest says of audio without a header: numbers as tables write them, and what makes no sense is told."""

from pathlib import Path

import pytest

from workers.headerless import RawAudio
from workers.loading import SourceSettings, load_ahead
from workers.objects import Fetched, ObjectError
from workers.recording import Recording, raw_audio_of
from workers.source import Source

CLIP = Path(__file__).parents[2] / "pipelines" / "demo" / "corpus" / "en" / "invalid.wav"
RAW = bytes(range(1, 200)) * 20


def recording(path: Path, content: bytes, **metadata: str) -> Recording:
    path.write_bytes(content)
    return Recording("r", Source(str(path), None, len(content), None), ["base"], list(metadata.items()))


@pytest.mark.parametrize(
    ("rate", "expected"),
    [("16000", 16_000), ("16000.0", 16_000), (" 16000 ", 16_000), ("1.6e4", 16_000), ("", 8_000), ("nan", 8_000)],
)
def test_a_rate_is_a_whole_number_however_a_table_writes_it(tmp_path, rate, expected):
    told = recording(tmp_path / "a", RAW, format="mulaw", sample_rate=rate, channels="2.0")
    assert raw_audio_of(told) == RawAudio("mulaw", expected, 2)


@pytest.mark.parametrize(
    ("column", "value"), [("sample_rate", "8k"), ("sample_rate", "8000.5"), ("sample_rate", "inf"), ("channels", "two")]
)
def test_a_value_that_makes_no_sense_is_named_where_there_is_no_header(tmp_path, column, value):
    told = recording(tmp_path / "a.raw", RAW, **{"format": "mulaw", column: value})
    [(_, outcome)] = load_ahead([told], SourceSettings((), 1 << 30))
    assert isinstance(outcome, ObjectError)
    assert outcome.code == "not_audio"
    assert all(part in outcome.message for part in (str(tmp_path / "a.raw"), column, repr(value)))


@pytest.mark.parametrize("rate", ["0", "-8000"])
def test_a_rate_that_none_can_have_is_named_too(tmp_path, rate):
    [(_, outcome)] = load_ahead([recording(tmp_path / "a.ul", RAW, sample_rate=rate)], SourceSettings((), 1 << 30))
    assert isinstance(outcome, ObjectError)
    assert rate in outcome.message


def test_it_does_not_matter_where_there_is_a_header(tmp_path):
    told = recording(tmp_path / "a.wav", CLIP.read_bytes(), format="mulaw", sample_rate="8k")
    [(_, outcome)] = load_ahead([told], SourceSettings((), 1 << 30))
    assert isinstance(outcome, Fetched)
