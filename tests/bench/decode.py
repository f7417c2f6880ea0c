"""bench decode: seconds of audio decoded per second on one core, a format at a time, against the libraries.

Each way gets the same bytes in memory and gives mono 16-kHz int16: ours as Ingester has it (decoder child, segments as
`whole`), our decoding without the child, and as rivals soundfile+soxr HQ, PyAV+swresample, and torchcodec where the
machine has FFmpeg's libraries. All run on one core, in turn, the fastest of some rounds each. The child's price is told
for clips of ten seconds. Real speech, resampled to what each format is usually met at.
"""

import argparse
import io
import os
import time
from collections.abc import Callable
from functools import partial

import av
import numpy as np
import soundfile
import soxr

from tests.real_corpus import english_prompts
from workers.decode import decode
from workers.decode_settings import DecodeLimits, DecodeSettings
from workers.decoder import Decoder, Request
from workers.segments import Segmenter, SegmentSettings, segmenter

RATE = 16_000
SETTINGS = DecodeSettings(RATE, DecodeLimits(48 * 3600, 32))
WHOLE = SegmentSettings("whole", 3600.0)
FORMATS: dict[str, tuple[int, int, str, str]] = {  # rate, channels, container, codec
    "wav": (44_100, 2, "WAV", "PCM_16"),
    "wav 8 kHz mono": (8_000, 1, "WAV", "PCM_16"),
    "wav mu-law": (8_000, 1, "WAV", "ULAW"),
    "flac": (44_100, 2, "FLAC", "PCM_16"),
    "mp3": (44_100, 2, "mp3", "libmp3lame"),
    "ogg vorbis": (44_100, 2, "OGG", "VORBIS"),
    "ogg opus": (48_000, 2, "ogg", "libopus"),
    "m4a aac": (44_100, 2, "mp4", "aac"),
    "alac": (44_100, 2, "ipod", "alac"),
    "wma": (44_100, 2, "asf", "wmav2"),
    "amr": (8_000, 1, "amr", "libopencore_amrnb"),
}


def speech(seconds: float, rate: int, channels: int) -> np.ndarray:
    """Return real prompts one after the other, float32 of shape (n, channels); the second channel a little later."""
    clips = [soundfile.read(path, dtype="float32")[0] for path in sorted((english_prompts() / "en").rglob("*.wav"))]
    mono = soxr.resample(np.resize(np.concatenate(clips), int(seconds * 8000)), 8000, rate)
    return np.stack([np.roll(mono, 40 * channel) * 0.7 for channel in range(channels)], axis=1)


def encoded(samples: np.ndarray, rate: int, form: str, codec: str) -> bytes:
    """Encode with libsndfile or FFmpeg."""
    out = io.BytesIO()
    if form.isupper():
        with soundfile.SoundFile(out, "w", rate, samples.shape[1], format=form, subtype=codec) as sound:
            for start in range(0, len(samples), rate):  # its Vorbis encoder dies of a minute at once
                sound.write(samples[start : start + rate])
        return out.getvalue()
    layout = "stereo" if samples.shape[1] == 2 else "mono"
    with av.open(out, "w", format=form) as file:
        stream = file.add_stream(codec, rate=rate, layout=layout)
        stream.bit_rate = 12_200 if "amr" in codec else 128_000
        fitting = av.AudioResampler(stream.format, layout, rate, stream.codec_context.frame_size or 1024)
        for start in range(0, len(samples), rate):
            packed = np.ascontiguousarray(samples[start : start + rate]).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(packed, format="flt", layout=layout)
            frame.sample_rate, frame.pts = rate, start
            for part in fitting.resample(frame):
                file.mux(stream.encode(part))
        for part in [*fitting.resample(None), None]:
            file.mux(stream.encode(part))
    return out.getvalue()


class Cut:
    """A sink that cuts as Ingester does."""

    def __init__(self) -> None:
        self.segmenter: Segmenter = segmenter(WHOLE, None, RATE)
        self.found = 0

    def opened(self, info: object) -> None:
        """Nothing is kept of it."""

    def samples(self, pcm: np.ndarray) -> None:
        """Push."""
        self.found += sum(len(one.pcm) for one in self.segmenter.push(pcm))


def in_process(contents: list[bytes]) -> int:
    """Decode without the child."""
    found = 0
    for content in contents:
        sink = Cut()
        decode(io.BytesIO(content), SETTINGS, sink)
        found += sink.found + sum(len(one.pcm) for one in sink.segmenter.finish())
    return found


def with_child(decoder: Decoder) -> Callable[[list[bytes]], int]:
    """Decode as Ingester does."""

    def run(contents: list[bytes]) -> int:
        found, cut = 0, Cut()
        for answer in decoder.stream(Request(content) for content in contents):
            if isinstance(answer, np.ndarray):
                cut.samples(answer)
            elif hasattr(answer, "decoded_seconds"):
                found += cut.found + sum(len(one.pcm) for one in cut.segmenter.finish())
                cut = Cut()
        return found

    return run


def soundfile_soxr(contents: list[bytes]) -> int:
    """What one writes with soundfile and soxr."""
    found = 0
    for content in contents:
        samples, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
        wave = soxr.resample(samples @ np.full(samples.shape[1], 1 / samples.shape[1], np.float32), rate, RATE)
        found += len(np.clip(np.rint(wave * 32768), -32768, 32767).astype(np.int16))
    return found


def pyav_swresample(contents: list[bytes]) -> int:
    """What one writes with PyAV alone."""
    found = 0
    for content in contents:
        with av.open(io.BytesIO(content)) as file:
            resampler = av.AudioResampler("s16", "mono", RATE)
            for frame in file.decode(audio=0):
                found += sum(part.to_ndarray().size for part in resampler.resample(frame))
            found += sum(part.to_ndarray().size for part in resampler.resample(None))
    return found


def torchcodec_decoder() -> Callable[[list[bytes]], int] | None:
    """What one writes with torchcodec, or None where it cannot be loaded."""
    try:
        from torchcodec.decoders import AudioDecoder
    except Exception as error:  # it raises RuntimeError without FFmpeg's libraries
        print(f"  torchcodec is not among the rivals: {type(error).__name__}")
        return None

    def run(contents: list[bytes]) -> int:
        return sum(
            AudioDecoder(content, sample_rate=RATE, num_channels=1).get_all_samples().data.shape[1]
            for content in contents
        )

    return run


def best(ways: dict[str, Callable[[], int]], seconds: float, clips: int, rounds: int) -> dict[str, float]:
    """Return for each way its seconds of audio per second in its fastest round, the ways in turn; none where it fails.

    What each way finds is checked against what there is.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name in list(times):
            started = time.perf_counter()
            try:
                found = ways[name]()
            except Exception:  # it does not know the format
                del times[name]
                continue
            times[name].append(time.perf_counter() - started)
            assert abs(found / RATE - seconds) < 0.02 * seconds + 0.2 * clips, (name, found / RATE, seconds)
    return {name: seconds / min(some) for name, some in times.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="of audio in one file")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--formats", nargs="*", default=list(FORMATS))
    options = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    decoder = Decoder(SETTINGS)
    rivals = {"soundfile+soxr": soundfile_soxr, "PyAV+swresample": pyav_swresample}
    if torchcodec := torchcodec_decoder():
        rivals["torchcodec"] = torchcodec
    ours = with_child(decoder)
    for name in options.formats:
        rate, channels, form, codec = FORMATS[name]
        content = [encoded(speech(options.seconds, rate, channels), rate, form, codec)]
        ways = {rival: partial(way, content) for rival, way in rivals.items()}
        speeds = best({**ways, "ours": partial(ours, content)}, options.seconds, 1, options.rounds)
        speed = speeds.pop("ours")
        clips = [encoded(speech(10.0, rate, channels), rate, form, codec)] * 20
        short = best({"alone": partial(in_process, clips), "ours": partial(ours, clips)}, 200.0, 20, options.rounds)
        told = ", ".join(f"{rival} {speed:,.0f}" for rival, speed in speeds.items())
        print(
            f"bench decode, {name}: {speed:,.0f} s of audio a second, {speed / max(speeds.values()):.2f} of the "
            f"fastest ({told}); 10-s clips {short['ours']:,.0f}, the child adds "
            f"{100 * (short['alone'] / short['ours'] - 1):.0f} %",
            flush=True,
        )
    decoder.close()


if __name__ == "__main__":
    main()
