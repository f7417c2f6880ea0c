"""A sink that keeps what a decoder gives it, and checks its order."""

import numpy as np

from workers.decoded import AudioInfo


class Heard:
    """What was decoded of one recording."""

    def __init__(self) -> None:
        self.info: AudioInfo | None = None
        self.blocks: list[np.ndarray] = []

    def opened(self, info: AudioInfo) -> None:
        assert self.info is None
        self.info = info

    def samples(self, pcm: np.ndarray) -> None:
        assert self.info is not None
        assert pcm.dtype == np.int16
        assert pcm.flags.c_contiguous
        self.blocks.append(pcm)

    @property
    def pcm(self) -> np.ndarray:
        return np.concatenate(self.blocks)
