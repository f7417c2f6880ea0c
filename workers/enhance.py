"""The enhancing step: a second signal beside the samples, for the stages that are to hear it."""

import logging
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa

from schemas import wire
from workers.columns import as_array
from workers.enhancers.enhancer import ENHANCERS, Enhancer, digest_of
from workers.results import rows_that_need
from workers.weights import ModelError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EnhanceSettings:
    """Which model enhances, what digest its weights must have (empty for none), and the ids of the stages that hear."""

    model: str
    digest: str
    stages: tuple[str, ...]


def add_enhanced(table: pa.Table, settings: EnhanceSettings, sample_rate: int) -> pa.Table:
    """Append the columns `enhanced`, as `pcm` but without noise, and `enhance_problem` to a wire table.

    Both are null where no stage that hears the enhanced signal is needed. An error costs the stages that hear that
    segment: it has no enhanced signal then, and the problem says why (workers.results.unheard reads it).

    Raises:
        ModelError: the model is not to be had here, or has other weights than where the run was planned.
    """
    enhancer = _enhancer(settings.model, settings.digest, sample_rate)
    rows = sorted({row for stage in settings.stages for row in rows_that_need(table, stage)})
    pcm = as_array(table["pcm"])
    heard = {row: np.frombuffer(pcm[row].as_buffer(), np.int16) for row in rows}
    samples = np.empty(sum(map(len, heard.values())), np.int16)
    lengths = np.zeros(table.num_rows, np.int64)
    problems: dict[int, str] = {}
    end = 0
    for row, segment in heard.items():
        try:
            samples[end : end + len(segment)] = enhancer.enhance(segment)
            lengths[row], end = len(segment), end + len(segment)
        except Exception as error:  # one odd segment costs itself only
            logger.warning("%s failed on a segment: %s", settings.model, error)
            problems[row] = f"{settings.model}: {type(error).__name__}: {error}"
    column = _binary(samples[:end], lengths, [row in heard and row not in problems for row in range(table.num_rows)])
    told = pa.array([problems.get(row) for row in range(table.num_rows)], pa.string())
    return table.append_column(wire.ENHANCED, column).append_column(wire.ENHANCE_PROBLEM, told)


@lru_cache(maxsize=1)
def _enhancer(model: str, digest: str, sample_rate: int) -> Enhancer:
    """Make the enhancer, and keep it for the next block of this worker process."""
    found = digest_of(model)
    if found != digest:
        raise ModelError(
            f"enhance: model {model} has digest {found[:16]} on this node and {digest[:16]} where the run was planned; "
            "install the same package versions on every node"
        )
    return ENHANCERS[model](sample_rate)


def _binary(samples: np.ndarray, lengths: np.ndarray, valid: list[bool]) -> pa.BinaryArray:
    """Return int16 samples, one segment after the other, as binary values of `lengths` samples, without a copy."""
    offsets = np.cumsum([0, *(lengths * samples.itemsize)], dtype=np.int32)
    bitmap = pa.array(valid, pa.bool_()).buffers()[1]
    buffers = [bitmap, pa.py_buffer(offsets), pa.py_buffer(samples)]
    return pa.BinaryArray.from_buffers(pa.binary(), len(valid), buffers, valid.count(False))
