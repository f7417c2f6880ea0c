"""bench embed: a wav2vec2-base of random weights on clips as long as real ones: ours against what one writes.

Ours sorts by length and batches by padded seconds (workers.models.batching), and gives each clip what it gives alone.
The rivals are transformers' own class in float32 on as many threads: random batches of 16, padded to the longest (whose
vectors depend on the batch), and one clip at a time. All take the mean of the last hidden state. One more way
is `pools.dtype: bfloat16`. What one big matrix product does in a second is told first: float32 can be no faster. Two
corpora: the lengths of the real prompts, and the lengths of speech as Common Voice has them (log-normal, 5.5 s).
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile
import torch
import transformers

from tests.real_corpus import english_prompts
from workers.models.model import Clip, Loading, ModelStage
from workers.models.speech import SpeechModel

RATE = 16_000
THREADS = 2
RANDOM_BATCH = 16
SETTINGS = {"layer": None, "pooling": "mean", "options": {}}
STAGE = ModelStage("embeddings/base", "embeddings", SETTINGS)


def checkpoint(folder: Path) -> Path:
    """Write a wav2vec2-base of random weights."""
    torch.manual_seed(0)
    transformers.Wav2Vec2Model(transformers.Wav2Vec2Config()).save_pretrained(folder)
    prepared = {"do_normalize": True, "feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": RATE}
    (folder / "preprocessor_config.json").write_text(json.dumps(prepared))
    return folder


def waves(seconds: Sequence[float]) -> list[np.ndarray]:
    """Noise of these lengths: what is in them costs nothing."""
    numbers = np.random.default_rng(0)
    return [numbers.normal(0, 0.1, int(length * RATE)).astype(np.float32) for length in seconds]


def corpora(count: int) -> dict[str, list[float]]:
    """Return lengths in seconds."""
    paths = sorted((english_prompts() / "en").rglob("*.wav"))
    numbers = np.random.default_rng(1)
    real = [soundfile.info(path).duration for path in numbers.choice(np.array(paths), count, replace=False)]
    return {
        "prompts": [length for length in real if 0.3 < length < 30],
        "Common Voice's lengths": np.clip(numbers.lognormal(1.55, 0.55, count), 0.5, 20).tolist(),
    }


def normalised(wave: np.ndarray) -> torch.Tensor:
    """Zero mean and unit variance, as Wav2Vec2FeatureExtractor has it."""
    return torch.from_numpy((wave - wave.mean()) / np.sqrt(wave.var() + 1e-7))


def random_batches(network: torch.nn.Module, clips: Sequence[np.ndarray]) -> None:
    """Batches of 16 as they come, padded to the longest."""
    for start in range(0, len(clips), RANDOM_BATCH):
        rows = [normalised(wave) for wave in clips[start : start + RANDOM_BATCH]]
        network(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)).last_hidden_state.mean(1)


def one_by_one(network: torch.nn.Module, clips: Sequence[np.ndarray]) -> None:
    """Each clip alone."""
    for wave in clips:
        network(normalised(wave)[None]).last_hidden_state.mean(1)


def timed(act: Callable[[], object]) -> float:
    """Return seconds."""
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def gigaflops() -> float:
    """Return how fast the machine multiplies matrices of the shape of the network's largest."""
    hidden, weights = torch.randn(1500, 768), torch.randn(768, 3072)
    seconds = min(timed(lambda: hidden @ weights) for _ in range(20))
    return 2 * 1500 * 768 * 3072 / seconds / 1e9


@torch.inference_mode()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--batch-seconds", type=float, default=30.0)
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory(prefix="phonolake-bench-") as folder:
        path = checkpoint(Path(folder))
        network = transformers.Wav2Vec2Model.from_pretrained(path).eval()
        loading = Loading(path, torch.device("cpu"), torch.float32, (STAGE,), 16, options.batch_seconds)
        model, half = SpeechModel.load(loading), SpeechModel.load(replace(loading, dtype=torch.bfloat16))
        print(f"a matrix product of float32 does {gigaflops():.0f} billion operations a second", flush=True)
        for name, lengths in corpora(options.clips).items():
            clips = waves(lengths)
            ways: dict[str, Callable[[], object]] = {
                "padded seconds": lambda clips=clips: model.run([Clip(wave) for wave in clips]),
                "random batches of 16": lambda clips=clips: random_batches(network, clips),
                "one by one": lambda clips=clips: one_by_one(network, clips),
                "padded seconds, bfloat16": lambda clips=clips: half.run([Clip(wave) for wave in clips]),
            }
            times: dict[str, list[float]] = {way: [] for way in ways}
            for _ in range(options.rounds):
                for way, act in ways.items():
                    times[way].append(timed(act))
            ours, *rivals, _ = (statistics.median(times[way]) for way in ways)
            told = ", ".join(f"{way} {sum(lengths) / statistics.median(times[way]):.1f}" for way in ways)
            print(
                f"bench embed, {name}: {min(rivals) / ours:.2f} times the better rival; seconds of audio a second: "
                f"{told} ({len(clips)} clips, {sum(lengths):.0f} s)",
                flush=True,
            )


if __name__ == "__main__":
    main()
