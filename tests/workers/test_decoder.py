"""The decoder child: what it answers is what decode() gives, and what kills it costs one recording."""

import errno
import fcntl
import io
import os
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.hearing import Heard
from workers import decoder as decoding
from workers import frames
from workers.child_process import ChildProcess
from workers.decode import decode
from workers.decode_settings import DecodeLimits, DecodeSettings
from workers.decoded import AudioInfo, Ending
from workers.decoder import Decoder, Failed, Request
from workers.plain_wav import DECODER, plain_wav
from workers.samples import to_int16

ROOT = Path(__file__).parents[2]
CORPUS = ROOT / "pipelines" / "demo" / "corpus"
SUFFIXES = {".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".mp4"}
FILES = sorted(path for path in CORPUS.rglob("*") if path.suffix in SUFFIXES)
RATE = 16_000
SETTINGS = DecodeSettings(RATE, DecodeLimits(max_seconds=3600, max_channels=8))
PLAIN = (CORPUS / "en/beep.wav").read_bytes()
MARKER = b"MISBEHAVE"


def as_flac(content):
    """The same samples as FLAC: a plain WAV file is read without the child."""
    out = io.BytesIO()
    soundfile.write(out, *soundfile.read(io.BytesIO(content), dtype="int16"), format="FLAC")
    return out.getvalue()


GOOD = as_flac(PLAIN)

# A child that answers as ours does, but for one request.
CHILD = """
import os, signal, sys, time
from workers import decoder_child, frames
decoder_child._limit_resources()
answers = os.fdopen(os.dup(1), "wb")
def misbehave():
    {misbehaviour}
for request in decoder_child.requests():
    if request.payload.getvalue().startswith(b"MISBEHAVE"):
        misbehave()
    decoder_child.answer(request, decoder_child.read_settings(sys.argv[-3]), answers)
"""
OPENED = (
    'answers.write(frames.pack(frames.OPENED, {"container": "wav", "codec": "pcm", "sample_rate": 8000, "channels": 1,'
    ' "declared_seconds": None, "decoder": "test"}) + frames.pack(frames.SAMPLES, {}, 4) + bytes(4)); answers.flush()'
)
PLACED = "frames.pack(frames.PLACED, {}, frames.PLACE.size) + frames.PLACE.pack"
ENDS = {
    "segfault": ("os.kill(os.getpid(), signal.SIGSEGV)", "signal 11"),
    "exit": ("os._exit(3)", "exit code 3"),
    "exit after some samples": (f"{OPENED}; os._exit(0)", "exit code 0"),
    "exit inside a frame": ('answers.write(b"S" + bytes(3)); answers.flush(); os._exit(1)', "exit code 1"),
    "MemoryError outside answer()": ("bytearray(64 << 30)", "exit code 1"),
    "closed output": ("answers.close(); os.close(1); os._exit(9)", "exit code 9"),
}


@pytest.fixture(scope="module")
def decoder():
    ours = Decoder(SETTINGS)
    yield ours
    ours.close()


@pytest.fixture
def misbehaving():
    made = []

    def make(misbehaviour):
        script = CHILD.replace("{misbehaviour}", misbehaviour)
        made.append(Decoder(SETTINGS, command=[sys.executable, "-c", script]))
        return made[-1]

    yield make
    for one in made:
        one.close()


def grouped(answers):
    """One list of answers a request."""
    groups, current = [], []
    for answer in answers:
        current.append(answer)
        if isinstance(answer, Ending | Failed):
            groups.append(current)
            current = []
    assert not current
    return groups


def samples(group):
    return np.concatenate([part for part in group if isinstance(part, np.ndarray)])


def pid_of(decoder):
    return decoder._child.pid


def is_gone(pid):
    """Whether no process `pid` runs any more; one that only waits to be reaped does not run."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state in "ZX"


def becomes_true(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_what_comes_is_what_decode_gives_with_the_child_or_without(decoder):
    contents = [path.read_bytes() for path in FILES if path.parent.name != "broken"]
    groups = grouped(decoder.stream(Request(content) for content in contents))
    assert len(groups) == len(contents) == 26
    for content, group in zip(contents, groups, strict=True):
        sink = Heard()
        ending = decode(io.BytesIO(content), SETTINGS, sink)
        plain = plain_wav(content) is not None
        assert group[0] == (replace(sink.info, decoder=DECODER) if plain else sink.info)
        assert group[-1] == ending
        np.testing.assert_array_equal(samples(group), np.concatenate(sink.blocks))


@pytest.mark.parametrize("channels", ["mono", "each"])
def test_samples_are_the_same_through_the_shared_memory_and_through_the_pipe(channels, monkeypatch):
    noise = np.random.default_rng(3).integers(
        -9000, 9000, (8000 * 300, 2), dtype=np.int16
    )  # more than a slot has room for
    assert len(noise) * 2 > frames.ANSWER_BYTES
    out = io.BytesIO()
    soundfile.write(out, noise, 8000, format="FLAC")
    settings = replace(SETTINGS, sample_rate=8000, channels=channels)
    decoder = Decoder(settings)
    kinds = Counter()
    take = ChildProcess._take_frame

    def counted(child, kind, *sizes):
        kinds[kind] += 1
        return take(child, kind, *sizes)

    monkeypatch.setattr(ChildProcess, "_take_frame", counted)
    try:
        groups = grouped(decoder.stream(Request(content) for content in [GOOD, out.getvalue(), GOOD] * 2))
    finally:
        decoder.close()
    assert kinds[frames.PLACED] > 10
    assert kinds[frames.SAMPLES] > 1
    expected = noise if channels == "each" else to_int16(noise.astype(np.float32).mean(1) / 32768)
    for group in (groups[1], groups[4]):
        np.testing.assert_array_equal(samples(group), expected)
    for number in (2, 3, 5):
        np.testing.assert_array_equal(samples(groups[number]), samples(groups[0]))


@pytest.mark.parametrize(
    "answer",
    {
        "half a sample": f"{PLACED}(0, 3, 1)",
        "no channel": f"{PLACED}(0, 4, 0)",
        "channels that do not fit": "frames.pack(frames.SAMPLES, {'channels': 3}, 4) + bytes(4)",
        "a place cut short": "frames.pack(frames.PLACED, {}, 4) + bytes(4)",
        "no JSON": "frames.PREFIX.pack(frames.ENDED, 4, 0) + b'{{{{'",
        "fields of nothing": "frames.pack(frames.ENDED, {'seconds': 1})",
        "a field of another type": "frames.pack(frames.FAILED, {'code': 7, 'message': 'seven'})",
        "a header that is no object": "frames.PREFIX.pack(frames.SAMPLES, 2, 0) + b'[]'",
        "a header without end": "frames.PREFIX.pack(frames.ENDED, 100000, 0) + b'[' * 100000",
        "more than there is memory for": "frames.PREFIX.pack(frames.SAMPLES, 0, 1 << 40)",
        "a place behind the end": f"{PLACED}(0, 1 << 40, 1)",
    }.items(),
    ids=lambda item: item[0],
)
def test_a_malformed_answer_costs_one_recording(misbehaving, answer):
    decoder = misbehaving(f"answers.write({answer[1]}); answers.flush()")
    groups = grouped(decoder.stream([Request(GOOD), Request(MARKER), Request(GOOD)]))
    assert groups[1][-1].code == "decoder_crashed"
    for group in (groups[0], groups[2]):
        assert isinstance(group[-1], Ending)


def test_memory_that_the_child_would_cut_short_stays_as_long(misbehaving):
    """Whoever reads mapped memory behind its file's end dies of SIGBUS: the worker must not."""
    place = f"{PLACED}(0, 8, 1)"
    cut = "\n    ".join(
        (
            "try:",
            "    os.ftruncate(int(sys.argv[-1]), 0)",
            "except PermissionError:",
            f"    answers.write({place} + frames.pack(frames.FAILED, {{'code': 'unreadable', 'message': 'sealed'}}))",
            f"else: answers.write({place})",
            "answers.flush()",
        )
    )
    decoder = misbehaving(cut)
    groups = grouped(decoder.stream([Request(GOOD), Request(MARKER + b"x")]))
    assert groups[1][-1].message == "sealed"


def test_many_requests_are_answered_in_their_order(decoder):
    contents = [path.read_bytes() for path in FILES]
    order = np.random.default_rng(5).integers(0, len(contents), 120)
    expected = {
        number: type(group[-1]) if isinstance(group[-1], Failed) else group[-1]
        for number, group in enumerate(grouped(decoder.stream(Request(content) for content in contents)))
    }
    groups = grouped(decoder.stream(Request(contents[number]) for number in order))
    assert len(groups) == 120
    for number, group in zip(order, groups, strict=True):
        last = group[-1]
        assert (type(last) if isinstance(last, Failed) else last) == expected[number]


def test_one_child_serves_many_streams(decoder):
    list(decoder.stream([Request(GOOD)]))
    first = pid_of(decoder)
    list(decoder.stream([Request(GOOD), Request(b"")]))
    assert pid_of(decoder) == first


def test_a_child_that_died_idle_costs_nothing(decoder):
    list(decoder.stream([Request(GOOD)]))
    os.kill(pid_of(decoder), signal.SIGKILL)
    os.waitid(os.P_PID, pid_of(decoder), os.WEXITED | os.WNOWAIT)
    assert [group[-1] for group in grouped(decoder.stream([Request(GOOD)] * 2))] == [Ending(0.4255, None)] * 2


def test_no_requests_start_no_child(decoder):
    decoder.close()
    assert list(decoder.stream([])) == []
    assert decoder._child is None


def test_a_path_is_decoded_like_its_bytes(decoder):
    path = CORPUS / "en/tt-monkeys.ogg"
    by_bytes, by_path = grouped(decoder.stream([Request(path.read_bytes()), Request(b"", str(path), 50_845)]))
    np.testing.assert_array_equal(samples(by_bytes), samples(by_path))


def test_broken_recordings_are_refused_with_their_codes_and_the_next_is_decoded(decoder):
    names = ["empty.wav", "notes.wav", "truncated.mp3"]
    contents = [(CORPUS / "broken" / name).read_bytes() for name in names]
    empty, notes, truncated, good = grouped(decoder.stream(map(Request, [*contents, GOOD])))
    assert [empty[0].code, notes[0].code] == ["empty", "not_audio"]
    assert "cut short" in truncated[-1].damage
    assert good[-1] == Ending(0.4255, None)


def test_recordings_larger_than_any_pipe_pass_both_ways(decoder):
    noise = np.random.default_rng(2).integers(-9000, 9000, 120 * RATE).astype(np.int16)
    out = io.BytesIO()
    soundfile.write(out, noise, RATE, format="W64", subtype="PCM_16")
    for group in grouped(decoder.stream([Request(out.getvalue())] * 6)):
        np.testing.assert_array_equal(samples(group), noise)


@pytest.mark.parametrize("way", ENDS, ids=str)
def test_a_child_that_dies_costs_one_recording(way, misbehaving):
    misbehaviour, obituary = ENDS[way]
    contents = [GOOD, MARKER, GOOD, GOOD, GOOD, GOOD, GOOD]
    groups = grouped(misbehaving(misbehaviour).stream(map(Request, contents)))
    assert len(groups) == len(contents)
    for content, group in zip(contents, groups, strict=True):
        if content == MARKER:
            assert group[-1].code == "decoder_crashed"
            assert obituary in group[-1].message
        else:
            assert group[-1] == Ending(0.4255, None)
            assert len(samples(group)) == round(0.4255 * RATE)


def test_a_child_that_hangs_costs_one_recording_and_no_more_than_its_time(misbehaving, monkeypatch):
    monkeypatch.setattr(decoding, "BASE_TIMEOUT_SECONDS", 2.0)
    contents = [GOOD, MARKER, GOOD, GOOD, GOOD, GOOD, GOOD]
    began = time.monotonic()
    hanging = misbehaving("time.sleep(3600)")
    answers = hanging.stream(map(Request, contents))
    assert isinstance(next(answers), AudioInfo)
    hung = pid_of(hanging)
    groups = grouped(answers)
    assert [group[-1].code for group in groups if isinstance(group[-1], Failed)] == ["decoder_timeout"]
    assert groups[1][-1].code == "decoder_timeout"
    assert sum(group[-1] == Ending(0.4255, None) for group in groups) == 6
    assert time.monotonic() - began < 15
    assert is_gone(hung)


def test_a_child_that_hangs_after_some_samples_times_out_too(misbehaving, monkeypatch):
    monkeypatch.setattr(decoding, "BASE_TIMEOUT_SECONDS", 2.0)
    _, hung, after = grouped(misbehaving(f"{OPENED}; time.sleep(3600)").stream(map(Request, [GOOD, MARKER, GOOD])))
    assert [type(answer) for answer in hung] == [AudioInfo, np.ndarray, Failed]
    assert hung[-1].code == "decoder_timeout"
    assert after[-1] == Ending(0.4255, None)


def test_a_larger_object_may_take_longer():
    assert Request(b"", "/long.wav", 500_000_000).timeout_seconds == 60 + 1000
    assert Request(bytes(1_000_000)).timeout_seconds == 62


def test_a_child_that_eats_memory_is_stopped_by_its_limit_and_costs_one_recording(misbehaving):
    eater = "import numpy; hoard = []\n    while True: hoard.append(numpy.empty(256 << 20, 'u1'))"
    began = time.monotonic()
    groups = grouped(misbehaving(eater).stream(map(Request, [GOOD, MARKER, GOOD, GOOD])))
    assert [isinstance(group[-1], Failed) for group in groups] == [False, True, False, False]
    assert groups[1][-1].code == "decoder_crashed"
    assert time.monotonic() - began < 30


def limit_of(pid, what):
    return resource.prlimit(pid, what)


def test_our_child_runs_under_its_limits(decoder):
    decoder.close()
    list(decoder.stream([Request(GOOD)]))
    pid = pid_of(decoder)
    assert limit_of(pid, resource.RLIMIT_FSIZE) == (0, 0)
    assert limit_of(pid, resource.RLIMIT_CORE) == (0, 0)
    assert limit_of(pid, resource.RLIMIT_AS) == (1 << 30, 2 << 30)
    assert limit_of(pid, resource.RLIMIT_NOFILE)[1] == 64


def test_our_child_has_more_room_for_the_index_of_a_long_film(decoder, tmp_path):
    film = tmp_path / "film.flac"
    film.write_bytes(GOOD)
    with open(film, "r+b") as file:
        file.truncate(400 << 20)  # of zeros that are not on the disk
    list(decoder.stream([Request(b"", str(film), 400 << 20)]))
    assert limit_of(pid_of(decoder), resource.RLIMIT_AS) == ((1 << 30) + (200 << 20), 2 << 30)
    film.write_bytes(GOOD)
    assert list(decoder.stream([Request(b"", str(film), len(GOOD))]))[-1] == Ending(0.4255, None)
    assert limit_of(pid_of(decoder), resource.RLIMIT_AS) == ((1 << 30) + (200 << 20), 2 << 30)


def test_our_child_has_no_credentials(decoder, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    decoder.close()
    list(decoder.stream([Request(GOOD)]))
    assert b"hunter2" not in Path(f"/proc/{pid_of(decoder)}/environ").read_bytes()


def test_under_the_childs_limits_no_byte_can_be_written_to_a_file(misbehaving, tmp_path):
    target = tmp_path / "written"
    write = f'signal.signal(signal.SIGXFSZ, signal.SIG_DFL); open({str(target)!r}, "wb", buffering=0).write(b"x")'
    groups = grouped(misbehaving(write).stream(map(Request, [MARKER, GOOD])))
    assert groups[0][-1].code == "decoder_crashed"
    assert f"signal {signal.SIGXFSZ.value}" in groups[0][-1].message
    assert target.stat().st_size == 0
    assert groups[1][-1] == Ending(0.4255, None)


def test_our_child_writes_no_files(decoder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    decoder.close()
    list(decoder.stream(Request(path.read_bytes()) for path in FILES))
    assert list(tmp_path.iterdir()) == []


def test_what_lies_where_we_work_does_not_matter_to_our_child(decoder, tmp_path, monkeypatch):
    """libsndfile takes a file `._` beside it for the resource fork of an MP3 without tags, and refuses that."""
    mp3 = io.BytesIO()
    soundfile.write(mp3, np.zeros(RATE), RATE, format="MP3")
    monkeypatch.chdir(tmp_path)
    Path("._").touch()
    Path("relative.mp3").write_bytes(mp3.getvalue())
    decoder.close()
    requests = [Request(mp3.getvalue()), Request(b"", "relative.mp3", len(mp3.getvalue()))]
    for group in grouped(decoder.stream(requests)):
        assert group[0].decoder.startswith("libsndfile")
        assert group[-1] == Ending(1.0, None)


def test_giving_up_early_leaves_no_child_and_the_next_stream_works(decoder):
    answers = decoder.stream(Request(path.read_bytes()) for path in FILES)
    next(answers)
    child = pid_of(decoder)
    answers.close()
    assert is_gone(child)
    assert grouped(decoder.stream([Request(GOOD)]))[0][-1] == Ending(0.4255, None)
    assert pid_of(decoder) != child


def test_an_error_of_the_requests_is_raised_and_the_next_stream_works(decoder):
    def requests():
        yield Request(GOOD)
        yield Request(GOOD)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(decoder.stream(requests()))
    assert [group[-1] for group in grouped(decoder.stream([Request(GOOD)]))] == [Ending(0.4255, None)]


def test_close_ends_the_child_and_may_be_called_twice(decoder):
    list(decoder.stream([Request(GOOD)]))
    child = pid_of(decoder)
    decoder.close()
    decoder.close()
    assert is_gone(child)


PARENT = """
import sys, time
from pathlib import Path
from workers.decode_settings import DecodeLimits, DecodeSettings
from workers.decoder import Decoder, Request
decoder = Decoder(DecodeSettings(16000, DecodeLimits(3600, 8)))
content = Path(sys.argv[1]).read_bytes()
answers = decoder.stream([Request(content)] * int(sys.argv[2]))
next(answers)
print(decoder._child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("n_requests", [1, 50], ids=["idle", "in the middle of writing"])
def test_the_child_ends_when_its_parent_is_killed(n_requests):
    clip = CORPUS / "en/basic-pbx-ivr-main.flac"
    command = [sys.executable, "-c", PARENT, str(clip), str(n_requests)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}) as parent:
        try:
            child = int(parent.stdout.readline())
            assert not is_gone(child)
        finally:
            parent.kill()
    assert becomes_true(lambda: is_gone(child), seconds=15)


def test_a_child_that_hangs_ends_too_when_its_parent_is_gone():
    hang = (
        "import sys, threading, time; from workers import decoder_child as c; c.PARENT_CHECK_SECONDS = 0.2; "
        "threading.Thread(target=c._end_with, args=(int(sys.argv[1]),), daemon=True).start(); time.sleep(600)"
    )
    parent_code = (
        "import os, subprocess, sys, time; "
        "print(subprocess.Popen([sys.executable, '-c', sys.argv[1], str(os.getpid())]).pid, flush=True); "
        "time.sleep(600)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", parent_code, hang]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as parent:
        try:
            child = int(parent.stdout.readline())
            time.sleep(1)
            assert not is_gone(child)
        finally:
            parent.kill()
    assert becomes_true(lambda: is_gone(child), seconds=15)


def test_a_child_that_cannot_be_started_leaves_nothing_open():
    open_before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(OSError, match="no-such-program"):
            list(Decoder(SETTINGS, ["/no-such-program"]).stream([Request(b"fLaC")]))
    assert len(os.listdir("/proc/self/fd")) == open_before


def test_a_host_that_gives_no_larger_pipes_is_no_hindrance(monkeypatch):
    def refused(descriptor, command, *arguments):
        if command == fcntl.F_SETPIPE_SZ:  # as of the user's last pages of pipes, on a host of many workers
            raise PermissionError(errno.EPERM, "Operation not permitted")
        return fcntl_of_system(descriptor, command, *arguments)

    fcntl_of_system = fcntl.fcntl
    monkeypatch.setattr(fcntl, "fcntl", refused)
    decoder = Decoder(SETTINGS)
    try:
        assert isinstance(list(decoder.stream([Request(GOOD)]))[-1], Ending)
    finally:
        decoder.close()
