"""What a recipe means to the workers: settings of decoding, reading, blocks, spectrograms and pools."""

from typing import Final

from pipelines.recipe import Recipe
from pipelines.stages import Stage, segment_settings
from workers.actors import PoolSpec
from workers.decode_settings import DecodeLimits, DecodeSettings
from workers.features import SpectrogramStage
from workers.ingest import IngestSettings
from workers.loading import SourceSettings
from workers.models.model import ModelStage
from workers.samples import FLOAT32_BYTES, INT16_BYTES
from workers.spectrogram_settings import SpectrogramSettings

INGEST_BLOCK_BYTES: Final = 3600 * 32_000  # an hour at 16 kHz: its log-mel fragment is worth publishing as it is
MODEL_BLOCK_SECONDS: Final = 240.0  # half a minute of work for a transcriber on a CPU
MADE_BLOCK_BYTES: Final = 160 << 20  # of all spectrograms and clips of a block: an hour of log-mel is 115 MB
GPU_BATCH_ROWS: Final = 256
GPU_BATCH_SECONDS: Final = 7200.0  # of segments as long as they may be, at 16 kHz: all lie in an actor's memory at once


def ingest_settings(recipe: Recipe, stages: list[Stage]) -> IngestSettings:
    """Return what ingesting needs of a recipe."""
    return IngestSettings(
        decode=decode_settings(recipe),
        segments=segment_settings(recipe.segments),
        source=source_settings(recipe),
        block_seconds=block_seconds(recipe, stages),
        on_partial=recipe.audio.on_partial,
        reference_column=next((one.text_column for one in recipe.transcripts if one.align_with), None),
    )


def bytes_per_second(recipe: Recipe) -> int:
    """Return how many bytes of samples a second of audio has on the wire: once, or twice where it is enhanced too."""
    return INT16_BYTES * recipe.audio.sample_rate * (2 if recipe.enhance else 1)


def block_seconds(recipe: Recipe, stages: list[Stage]) -> float:
    """Return how much audio a wire table holds: what a pool does in half a minute, or what gives good fragments.

    Fewer seconds where the spectrograms are many or fine, or clips come to them: a block and what is made of it are in
    memory together.
    """
    if pools_of(stages):
        return MODEL_BLOCK_SECONDS
    values = sum(one.settings.values_per_second(recipe.audio.sample_rate) for one in spectrogram_stages(stages))
    clips = INT16_BYTES * recipe.audio.sample_rate if recipe.clips else 0  # noise does not get smaller as FLAC
    longest = INGEST_BLOCK_BYTES / bytes_per_second(recipe)
    return min(longest, MADE_BLOCK_BYTES / max(values * FLOAT32_BYTES + clips, 1.0))


def decode_settings(recipe: Recipe) -> DecodeSettings:
    """Return how a recipe's recordings are decoded."""
    audio, limits = recipe.audio, recipe.limits
    allowed = DecodeLimits(limits.max_seconds, limits.max_channels, limits.max_rate, limits.max_decoded_bytes)
    return DecodeSettings(audio.sample_rate, allowed, audio.channels, audio.track)


def source_settings(recipe: Recipe) -> SourceSettings:
    """Return how a recipe's recordings are read."""
    options = tuple(sorted(recipe.source.storage.options().items()))
    return SourceSettings(options, recipe.limits.max_bytes, recipe.source.audio_column)


def spectrogram_stages(stages: list[Stage]) -> list[SpectrogramStage]:
    """Return the spectrograms among the stages."""
    return [
        SpectrogramStage(stage.id, SpectrogramSettings(**stage.settings), stage.signal)
        for stage in stages
        if stage.table == "spectrograms"
    ]


def clip_stages(stages: list[Stage]) -> list[str]:
    """Return the ids of the stages that keep the sound itself: one, or none."""
    return [stage.id for stage in stages if stage.table == "clips"]


def pools_of(stages: list[Stage]) -> list[list[Stage]]:
    """Return the stages by model: one pool serves all tables that a model fills."""
    pools: dict[str, list[Stage]] = {}
    for stage in stages:
        if stage.checkpoint is not None:
            pools.setdefault(stage.checkpoint.name, []).append(stage)
    return list(pools.values())


def pool_kinds(stages: list[Stage]) -> list[str]:
    """Return the kind of model of each pool, in the order of pools_of."""
    return [pool[0].checkpoint.kind for pool in pools_of(stages) if pool[0].checkpoint is not None]


def pool_spec(pool: list[Stage], recipe: Recipe, threads: int) -> PoolSpec:
    """Return what the members of a pool are made from."""
    checkpoint = pool[0].checkpoint
    assert checkpoint is not None
    return PoolSpec(
        checkpoint.name,
        checkpoint.kind,
        checkpoint.digest,
        tuple(ModelStage(stage.id, stage.table, stage.settings, stage.signal) for stage in pool),
        threads,
        recipe.pools.batch_size,
        recipe.pools.batch_seconds,
        recipe.audio.sample_rate,
        recipe.pools.dtype,
    )


def gpu_batch_rows(recipe: Recipe) -> int:
    """Return how many rows of the wire a GPU's actor gets at once; Ray Data wants a number with GPUs."""
    seconds = recipe.segments.max_seconds * recipe.audio.sample_rate / 16_000
    return max(1, min(GPU_BATCH_ROWS, int(GPU_BATCH_SECONDS / seconds)))
