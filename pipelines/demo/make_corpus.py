"""Rebuild `corpus/`, the demo's bucket of real speech, from Debian's Asterisk voice prompts.

Unpack the four packages into one folder, then name it (Debian 12 has version 1.6.1-1):

    apt-get download asterisk-core-sounds-{en,es} asterisk-core-sounds-{en,es}-wav
    for deb in *.deb; do dpkg -x "$deb" prompts; done
    python pipelines/demo/make_corpus.py prompts

The `-wav` packages hold the recordings (PCM 16, 8 kHz, mono), the others their texts. With the same libraries
the same bytes come out. `corpus/ATTRIBUTION.md` is written by hand: correct it when the list below changes.
"""

import csv
import gzip
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import soundfile
import soxr

CORPUS = Path(__file__).parent / "corpus"
PACKAGE = "asterisk-core-sounds-{language}-wav 1.6.1-1"
VOICES = {"en": "en_US_f_Allison", "es": "es_MX_f_Allison"}

PICTURE_SIZE = (160, 120)  # width, height in pixels
PICTURE_RATE = 5  # frames per second
KEPT_OF_TRUNCATED = 0.6  # share of the file's bytes
NOTES = """\
Field notes, 14 March, site 3 (north gate)
07:10  recorder on, light wind, traffic on the ring road
07:42  battery swapped, about two minutes lost
08:05  caller at the gate phone, see track 4
08:30  recorder off; card copied to the blue disk, wav files still to be renamed
"""

Samples = np.ndarray  # float32, mono, one dimension


@dataclass(frozen=True)
class Clip:
    """One prompt and the suffix it gets here; a tone or a noise is not spoken and has no text or language."""

    language: str
    name: str
    suffix: str
    spoken: bool = True

    @property
    def path(self) -> str:
        """The clip's path relative to the corpus."""
        return f"{self.language}/{self.name}{self.suffix}"

    @property
    def original(self) -> str:
        """The recording's path relative to Debian's folder of sounds."""
        return f"{VOICES[self.language]}/{self.name}.wav"


CLIPS = (
    Clip("en", "agent-alreadyon", ".wav"),
    Clip("en", "all-circuits-busy-now", ".wav"),
    Clip("en", "basic-pbx-ivr-main", ".flac"),
    Clip("en", "beep", ".wav", spoken=False),
    Clip("en", "cannot-complete-as-dialed", ".wav"),
    Clip("en", "confbridge-pin-bad", ".wav"),
    Clip("en", "demo-echotest", ".mp3"),
    Clip("en", "followme/status", ".flac"),
    Clip("en", "invalid", ".wav"),
    Clip("en", "priv-introsaved", ".opus"),
    Clip("en", "privacy-unident", ".wav"),
    Clip("en", "queue-youarenext", ".mp3"),
    Clip("en", "something-terribly-wrong", ".wav"),
    Clip("en", "speed-dial-empty", ".ogg"),
    Clip("en", "ss-noservice", ".mp3"),
    Clip("en", "tt-allbusy", ".m4a"),
    Clip("en", "tt-monkeys", ".ogg", spoken=False),
    Clip("en", "tt-weasels", ".wav"),
    Clip("en", "vm-goodbye", ".wav"),
    Clip("en", "vm-newuser", ".mp4"),
    Clip("es", "conf-now-recording", ".wav"),
    Clip("es", "confbridge-begin-glorious-c", ".opus"),
    Clip("es", "confbridge-pin", ".mp3"),
    Clip("es", "followme/pls-hold-while-try", ".ogg"),
    Clip("es", "queue-periodic-announce", ".wav"),
    Clip("es", "vm-marked-urgent", ".wav"),
)
TRUNCATED = Clip("en", "queue-periodic-announce", ".mp3")


def main() -> None:
    """Write every clip, the broken files and the manifest into `corpus/`."""
    if len(sys.argv) != 2:
        sys.exit("usage: python pipelines/demo/make_corpus.py FOLDER_OF_UNPACKED_PACKAGES")
    prompts = Path(sys.argv[1])
    for clip in CLIPS:
        write_clip(prompts, clip, CORPUS / clip.path)
    write_broken(prompts)
    write_manifest(prompts)


def write_clip(prompts: Path, clip: Clip, target: Path) -> None:
    """Write one recording in the format of its suffix; a WAV stays byte for byte as it was."""
    source = prompts / "usr/share/asterisk/sounds" / clip.original
    target.parent.mkdir(parents=True, exist_ok=True)
    if clip.suffix == ".wav":
        target.write_bytes(source.read_bytes())
    else:
        samples, rate = soundfile.read(source, dtype="float32")
        ENCODERS[clip.suffix](target, samples, rate)


def encode_flac(target: Path, samples: Samples, rate: int) -> None:
    """Write lossless FLAC, 16 bit."""
    soundfile.write(target, samples, rate, format="FLAC", subtype="PCM_16")


def encode_vorbis(target: Path, samples: Samples, rate: int) -> None:
    """Write Ogg Vorbis; the packets move to a second container because libsndfile draws a random serial number."""
    drawn = BytesIO()
    soundfile.write(drawn, samples, rate, format="OGG", subtype="VORBIS")
    drawn.seek(0)
    with av.open(drawn) as source, open_to_write(target) as container:
        stream = container.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(audio=0):
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)


def encode_mp3(target: Path, samples: Samples, rate: int) -> None:
    """Write MP3 (MPEG 2.5) with a Xing header that declares the true length."""
    with open_to_write(target) as container:
        stream = container.add_stream("libmp3lame", rate=rate, layout="mono", bit_rate=24_000)
        encode_audio(container, stream, samples)


def encode_opus(target: Path, samples: Samples, rate: int) -> None:
    """Write Ogg Opus at 48 kHz."""
    with open_to_write(target) as container:
        stream = container.add_stream("libopus", rate=48_000, layout="mono", bit_rate=24_000)
        encode_audio(container, stream, soxr.resample(samples, rate, 48_000))


def encode_m4a(target: Path, samples: Samples, rate: int) -> None:
    """Write AAC at 16 kHz."""
    with open_to_write(target) as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono", bit_rate=32_000)
        encode_audio(container, stream, soxr.resample(samples, rate, 16_000))


def encode_mp4(target: Path, samples: Samples, rate: int) -> None:
    """Write a film: H.264 of a playhead crossing the waveform, and the speech as AAC at 44.1 kHz, twin channels."""
    with open_to_write(target) as container:
        video = container.add_stream("libx264", rate=PICTURE_RATE, options={"crf": "30"})
        video.width, video.height = PICTURE_SIZE
        video.pix_fmt = "yuv420p"
        video.codec_context.thread_count = 1  # the number of threads would change the bytes
        audio = container.add_stream("aac", rate=44_100, layout="stereo", bit_rate=64_000)
        for picture in draw_pictures(samples, rate):
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="gray8")))
        container.mux(video.encode(None))
        encode_audio(container, audio, soxr.resample(samples, rate, 44_100))


def draw_pictures(samples: Samples, rate: int) -> Iterator[np.ndarray]:
    """Yield grey pictures (height, width), PICTURE_RATE a second, of the waveform and where it is being played."""
    width, height = PICTURE_SIZE
    peaks = np.array([np.abs(part).max() for part in np.array_split(samples, width)]) / np.abs(samples).max()
    from_middle = np.abs(np.arange(height) - height / 2) / (height / 2)
    waveform = np.where(from_middle[:, None] <= peaks, 160, 32).astype(np.uint8)
    for start in range(0, len(samples), rate // PICTURE_RATE):
        picture = waveform.copy()
        picture[:, start * width // len(samples)] = 255
        yield picture


ENCODERS: dict[str, Callable[[Path, Samples, int], None]] = {
    ".flac": encode_flac,
    ".m4a": encode_m4a,
    ".mp3": encode_mp3,
    ".mp4": encode_mp4,
    ".ogg": encode_vorbis,
    ".opus": encode_opus,
}


def open_to_write(target: Path) -> av.container.OutputContainer:
    """Open a container that names neither the time nor a random number."""
    return av.open(str(target), "w", options={"fflags": "+bitexact"})


def encode_audio(container: av.container.OutputContainer, stream: av.AudioStream, samples: Samples) -> None:
    """Encode mono samples at the stream's rate; each of its channels gets a copy."""
    codec = stream.codec_context
    frame = av.AudioFrame.from_ndarray(np.tile(samples, (codec.channels, 1)), format="fltp", layout=codec.layout.name)
    frame.sample_rate = codec.sample_rate
    frame.pts = 0  # the encoder's priming then lies before zero, and an edit list tells the reader to skip it
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def write_broken(prompts: Path) -> None:
    """Write an empty file, an MP3 that ends before its header says so, and a text under an audio name."""
    folder = CORPUS / "broken"
    truncated = folder / "truncated.mp3"
    write_clip(prompts, TRUNCATED, truncated)
    whole = truncated.read_bytes()
    truncated.write_bytes(whole[: int(len(whole) * KEPT_OF_TRUNCATED)])
    (folder / "empty.wav").write_bytes(b"")
    (folder / "notes.wav").write_text(NOTES, encoding="utf-8")


def write_manifest(prompts: Path) -> None:
    """Write `manifest.csv`: path, text, language, source; sorted by path."""
    texts = {language: read_texts(prompts, language) for language in VOICES}
    rows = [
        (clip.path, texts[clip.language][clip.name], clip.language, source_of(clip))
        if clip.spoken
        else (clip.path, "", "", source_of(clip))
        for clip in CLIPS
    ]
    rows.append(("broken/empty.wav", "", "", "made here"))
    rows.append(("broken/notes.wav", "", "", "made here"))
    rows.append(("broken/truncated.mp3", "", TRUNCATED.language, source_of(TRUNCATED)))
    with (CORPUS / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("path", "text", "language", "source"))
        writer.writerows(sorted(rows))


def source_of(clip: Clip) -> str:
    """Name the Debian package, its version and the recording in it."""
    return f"{PACKAGE.format(language=clip.language)}: {clip.original}"


def read_texts(prompts: Path, language: str) -> dict[str, str]:
    """Read what each prompt says from lines `name: text`, with runs of blanks made one."""
    package = f"asterisk-core-sounds-{language}"
    listing = prompts / "usr/share/doc" / package / f"core-sounds-{language}.txt.gz"
    with gzip.open(listing, "rt", encoding="utf-8") as lines:
        pairs = (line.split(":", 1) for line in lines if ":" in line and not line.startswith(";"))
        return {name.strip(): " ".join(text.split()) for name, text in pairs}


if __name__ == "__main__":
    main()
