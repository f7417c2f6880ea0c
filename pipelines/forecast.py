"""What a run would do, without doing it."""

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from pipelines.errors import StoreError
from pipelines.plan import Delta
from pipelines.planned_recordings import recording_of
from pipelines.recipe import Recipe
from pipelines.report import megabytes
from pipelines.run import plan_delta, what_differs
from pipelines.runs import find_runs, load_plan
from pipelines.stages import spectrogram_settings, stages_of
from pipelines.store import lake_store
from pipelines.worker_settings import decode_settings, source_settings
from workers.decoded import Ending
from workers.decoder import Decoder, Failed, Request
from workers.headerless import RawAudio
from workers.loading import SourceSettings, load_ahead
from workers.objects import Fetched
from workers.recording import raw_audio_of
from workers.spectrogram_settings import DEFAULT_BINS
from workers.stores import ReadingStopped

SAMPLE: Final = 48  # objects at most that are decoded to estimate the hours
SAMPLE_BYTES: Final = 128 << 20  # of objects in the sample, the first one apart


def forecast(recipe: Recipe) -> dict[str, Any]:
    """Return the counts of the plan that would be made now, and what is open and would be finished before.

    What an open run reads counts among the plan's until it is sealed. Hours are an estimate: seconds per byte of a
    sample of objects, times the bytes.
    """
    store, stages = lake_store(recipe.lake), stages_of(recipe)
    runs = find_runs(store, recipe.corpus)
    delta = plan_delta(recipe, store, runs, stages)
    open_plan = load_plan(store, recipe.corpus, runs.open) if runs.open else None
    return {
        "corpus": recipe.corpus,
        "open_run": runs.open,
        "open_recordings": open_plan.recordings if open_plan else 0,
        "open_run_differs": what_differs(recipe, stages, open_plan) if open_plan else None,
        "listed": delta.listed,
        "recordings": delta.recordings.num_rows,
        "new": delta.new,
        "changed": delta.changed,
        "stage_only": delta.stage_only,
        "gone": delta.gone,
        "size_bytes": delta.size_bytes,
        "estimated_hours": _estimate_hours(recipe, delta),
        "stages": dict(Counter(stage for stages in delta.recordings["stages"].to_pylist() for stage in stages)),
    }


def _estimate_hours(recipe: Recipe, delta: Delta) -> float | None:
    """Return hours, from decoding evenly spaced objects; None where none of them decodes."""
    if not delta.recordings.num_rows:
        return 0.0
    step = math.ceil(delta.recordings.num_rows / SAMPLE)
    sample = delta.recordings.take(list(range(0, delta.recordings.num_rows, step))).to_pylist()
    fetched = list(_fetched(sample, source_settings(recipe)))
    decoder = Decoder(decode_settings(recipe))
    answers = decoder.stream(Request(one.content, one.path, one.size_bytes, raw) for one, raw in fetched)
    endings = [answer for answer in answers if isinstance(answer, Ending | Failed)]
    decoder.close()
    decoded = [
        (ending.decoded_seconds, one.size_bytes)
        for ending, (one, _) in zip(endings, fetched, strict=True)
        if isinstance(ending, Ending)
    ]
    sampled = sum(size for _, size in decoded)
    return sum(seconds for seconds, _ in decoded) / sampled * delta.size_bytes / 3600 if sampled else None


def _fetched(rows: list[dict[str, Any]], settings: SourceSettings) -> Iterator[tuple[Fetched, RawAudio | None]]:
    held = 0
    for row in rows:
        held += row["size_bytes"]
        if row is not rows[0] and held > SAMPLE_BYTES:
            return
        recording = recording_of(row)
        try:
            [(_, outcome)] = load_ahead([recording], settings)
        except ReadingStopped as error:
            raise StoreError(str(error)) from error
        if isinstance(outcome, Fetched):  # a forecast leaves failures to the run
            yield outcome, raw_audio_of(recording)


def forecast_text(facts: dict[str, Any], recipe: Recipe) -> str:
    """Return a forecast as text, with the resolved recipe below it."""
    hours = "unknown" if facts["estimated_hours"] is None else f"about {facts['estimated_hours']:.2f}"
    lines = [
        f"corpus {facts['corpus']}: {facts['listed']:,} objects listed",
        f"  {facts['new']:,} new, {facts['changed']:,} changed, {facts['stage_only']:,} with new stages only, "
        f"{facts['gone']:,} gone",
        f"  to read: {facts['recordings']:,} recordings, {megabytes(facts['size_bytes'])}, {hours} hours of audio",
        *(f"  {stage}: {count:,} recordings" for stage, count in facts["stages"].items()),
    ]
    if facts["open_run"]:
        differs = facts["open_run_differs"]
        fits = f"was planned with {differs}: run would end with code 4" if differs else "will be resumed first"
        lines.append(f"  run {facts['open_run']} is open with {facts['open_recordings']:,} recordings, and {fits}")
    return "\n".join([*lines, "", "the resolved recipe:", _with_defaults(recipe)])


def _with_defaults(recipe: Recipe) -> str:
    """Return the resolved recipe; behind each spectrogram, as a comment, what a key that is not given stands for."""
    text, rate = recipe.as_yaml(), recipe.audio.sample_rate
    for section in recipe.spectrograms:
        found = spectrogram_settings(section)
        fft, most = found.fft_length(rate), rate / 2 if found.f_max is None else found.f_max
        bins = found.n_bins or DEFAULT_BINS.get(found.kind, fft // 2 + 1)
        said = (
            f"n_bins {bins}, window_seconds {found.window_seconds:g}, hop_seconds {found.hop_seconds:g}, "
            f"f_min {found.f_min:g}, f_max {most:g}; FFT of {fft} samples"
        )
        text = text.replace(f"- kind: {section.kind}\n", f"- kind: {section.kind}  # {said}\n", 1)
    return text
