"""A class of the user's own is a model; what it lacks is said before any audio is read."""

import sys

import numpy as np
import pyarrow as pa
import pytest

from schemas import wire
from workers.actors import PoolMember, PoolSpec
from workers.models.model import ModelStage
from workers.models.own import CODE_FOLDER
from workers.weights import ModelError, resolve

COUNTING = """
class Counting:
    sample_rate = 8_000
    {version}

    @classmethod
    def load(cls, loading):
        found = cls()
        found.options = loading.settings("tags")["options"]
        return found

    def run(self, clips):
        if any(len(clip.waveform) == 0 for clip in clips):
            raise ValueError("nothing to count")
        return [len(clip.waveform) for clip in clips]

    def rows(self, result, stage):
        score = float("nan") if result == 4 else result / 1e6
        return [dict(label=self.options["label"], score=score)]
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module of the user's; each test has one of its own name."""
    monkeypatch.setenv(CODE_FOLDER, str(tmp_path))
    before = list(sys.path)

    def write(source, name):
        (tmp_path / f"{name}.py").write_text(source)
        return name

    yield write
    sys.path[:] = before


def test_a_class_named_in_a_recipe_runs_as_a_pool_does(module):
    name = module(COUNTING.replace("{version}", ""), "own_counting") + ":Counting"
    checkpoint = resolve(name)
    stage = ModelStage(f"tags/{name}", "tags", {"top_k": 1, "options": {"label": "samples"}})
    member = PoolMember(PoolSpec(name, checkpoint.kind, checkpoint.digest, (stage,), threads=1, batch_size=1))
    rows = [
        {"recording_id": "r", "uri": "/r", "stages": [stage.id], "segment_index": index, "pcm": bytes(2 * samples)}
        for index, samples in enumerate((16_000, 0, 8, 1000))
    ]
    found = member(pa.Table.from_pylist(rows, wire.WIRE))
    expected = {"model": name, "revision": checkpoint.revision, "label": "samples", "score": np.float32(0.008)}
    listed = found[wire.rows_column(stage.id)].to_pylist()
    assert listed[0] == [expected]
    assert [len(one) for one in listed] == [1, 0, 0, 1]
    errors = [error and error["message"] for error in found[wire.error_column(stage.id)].to_pylist()]
    assert errors[0] is errors[3] is None
    assert "nothing to count" in errors[1]
    assert "none (NaN or infinity)" in errors[2]


def test_another_source_or_version_is_another_model(module):
    first = resolve(module(COUNTING.replace("{version}", ""), "own_first") + ":Counting")
    second = resolve(module(COUNTING.replace("{version}", "version = 2"), "own_second") + ":Counting")
    assert (first.kind, second.kind) == ("own", "own")
    assert first.digest != second.digest


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("own_absent", None, "cannot be imported: ModuleNotFoundError"),
        ("own_broken", "1 / 0", "cannot be imported: ZeroDivisionError"),
        ("own_other", "x = 1", "has no class Counting"),
        ("own_bare", "class Counting:\n    sample_rate = 8_000\n", "lacks load, run, rows"),
    ],
)
def test_what_is_missing_is_said(name, source, message, module):
    if source:
        module(source, name)
    with pytest.raises(ModelError, match=f"{name}:Counting: .*{message}"):
        resolve(f"{name}:Counting")


def test_a_row_of_another_form_or_a_number_of_numpy_that_is_none_costs_its_segment(module):
    source = """
import numpy as np

class Odd:
    sample_rate = 16_000

    @classmethod
    def load(cls, loading):
        return cls()

    def run(self, clips):
        return [len(clip.waveform) for clip in clips]

    def rows(self, result, stage):
        odd = {1: {"label": 9}, 2: {"score": np.float32("nan")}, 3: {"score": np.array([[1.0]])}}
        return [{"label": "x", "score": 0.5} | odd.get(result, {})]
"""
    name = module(source, "own_odd") + ":Odd"
    checkpoint = resolve(name)
    stage = ModelStage(f"tags/{name}", "tags", {"top_k": 1, "options": {}})
    member = PoolMember(PoolSpec(name, checkpoint.kind, checkpoint.digest, (stage,), threads=1, batch_size=1))
    rows = [
        {"recording_id": "r", "uri": "/r", "stages": [stage.id], "segment_index": index, "pcm": bytes(2 * samples)}
        for index, samples in enumerate((1, 2, 3, 4))
    ]
    found = member(pa.Table.from_pylist(rows, wire.WIRE))
    assert [len(one) for one in found[wire.rows_column(stage.id)].to_pylist()] == [0, 0, 0, 1]
