"""Hostile bytes: whatever comes in, each recording gets one answer within its limits, and each tar a listing."""

import os
import sys
from itertools import islice
from pathlib import Path

import av
import pytest

from tests.fuzz import campaign, mutations, references, shards, tars
from tests.fuzz.bombs import bombs, mp4_of_forty_million_samples
from tests.fuzz.campaign import MUCH_MEMORY, SETTINGS, Tally, alone, child_peak_bytes
from tests.fuzz.mutations import Mutant
from tests.fuzz.rules import broken_rules
from tests.fuzz.seeds import seeds
from tests.fuzz.watching import serving, watched
from workers import headerless
from workers.decoded import Ending
from workers.decoder import Decoder, Failed, Request

CORPUS = Path(__file__).parent / "corpus"
SEED = 20
N_MUTANTS = 1_000
N_TARS = 250
MOST_MEMORY = 1 << 30  # bytes that any one recording is worth


def saved(path):
    """A saved input; the ending of its name says what a headerless one is."""
    told = path.suffix[1:]
    raw = headerless.RawAudio(told, headerless.FORMATS[told][1]) if told in headerless.FORMATS else None
    return Mutant(path.name, path.read_bytes(), raw)


RECORDINGS = sorted(CORPUS.iterdir())


@pytest.fixture(scope="module", autouse=True)
def impatient():
    with campaign.impatient():
        yield


@pytest.fixture(scope="module")
def decoder():
    ours = Decoder(SETTINGS[1])
    yield ours
    ours.close()


def answers_of(decoder, content, raw=None):
    return list(decoder.stream([Request(content, raw=raw)]))


# Recordings


def test_every_seed_decodes_whole(decoder):
    for seed in seeds().values():
        answers = answers_of(decoder, seed.content, seed.raw)
        assert not broken_rules(answers, SETTINGS[1])
        assert isinstance(answers[-1], Ending), seed.name
        assert answers[-1].damage is None, seed.name


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.name)
def test_a_saved_recording_keeps_every_rule(path):
    mutant, tally = saved(path), Tally()
    for settings in SETTINGS:
        campaign.run([mutant], settings, tally)
    assert not tally.findings
    assert not [outcome for outcome in tally.outcomes if outcome.endswith("Error")]  # a library's own, not told by us


@pytest.mark.parametrize("settings", SETTINGS, ids=["mono", "each", "48 kHz", "left"])
def test_mutants_keep_every_rule(settings):
    tally = Tally()
    mutants = mutations.mutants(list(seeds().values()), SEED + SETTINGS.index(settings))
    campaign.run(islice(mutants, N_MUTANTS), settings, tally)
    assert tally.tried == N_MUTANTS
    assert {"ok", "partial", "unreadable", "not_audio"} <= tally.outcomes.keys()
    assert not tally.findings


def test_a_recording_cut_anywhere_in_its_header_keeps_every_rule():
    cut, tally = (one for seed in seeds().values() for one in mutations.truncations(seed)), Tally()
    campaign.run(islice(cut, 0, None, 5), SETTINGS[0], tally)
    assert tally.tried > 1_500
    assert not tally.findings


def test_the_same_bytes_are_refused_with_the_same_words():
    content = seeds()["wav"].content[:40]
    first, second = (alone(Mutant("cut", content), SETTINGS[0])[-1] for _ in range(2))
    assert isinstance(first, Failed)
    assert " object at 0x" not in first.message
    assert first == second


# Bombs


@pytest.mark.parametrize("bomb", bombs(), ids=lambda bomb: bomb.name)
def test_a_bomb_takes_no_more_memory_than_a_clip(bomb, decoder):
    answers_of(decoder, seeds()["wav"].content)
    child_peak_bytes(decoder)  # from here on
    answers = answers_of(decoder, bomb.content)
    assert not broken_rules(answers, SETTINGS[1])
    assert not (isinstance(answers[-1], Failed) and answers[-1].code.startswith("decoder_"))
    assert child_peak_bytes(decoder) < MUCH_MEMORY


def test_an_index_of_millions_of_samples_does_not_take_gigabytes():
    ours = Decoder(SETTINGS[0])
    try:
        answers = answers_of(ours, mp4_of_forty_million_samples())
        assert not broken_rules(answers, SETTINGS[0])
        assert child_peak_bytes(ours) < MOST_MEMORY
    finally:
        ours.close()


@pytest.mark.parametrize("name", ["flac_of_hours", "opus_of_hours"])
def test_hours_of_silence_in_few_bytes_are_too_long(name, decoder):
    content = next(bomb.content for bomb in bombs() if bomb.name == name)
    assert answers_of(decoder, content)[-1].code == "limit_seconds"


# References


PINNED = """
import sys
from workers import container, decoder_child
container.by_signature = lambda head: container.Container("playlist", sys.argv[2])
decoder_child.main()
"""
FOLLOWS = {  # what FFmpeg must be told to follow a reference
    "hls": {"allowed_extensions": "ALL", "allowed_segment_extensions": "ALL", "extension_picky": "0"},
    "concat": {"safe": "0"},
    "mov": {"enable_drefs": "1", "use_absolute_path": "1"},
}
EVERYTHING = {"protocol_whitelist": "file,http,tcp,subfile,data"}


@pytest.fixture
def canary(tmp_path):
    """A film that nobody may open, in a folder of its own."""
    path = tmp_path / "canary"
    path.write_bytes(seeds()["mov-pcm"].content)
    return path


@pytest.mark.parametrize("reference", references.REFERENCES, ids=lambda one: one.name)
def test_a_reference_is_never_followed(reference, canary, decoder):
    with watched(canary.parent) as watch, serving() as server:
        for target in (str(canary), f"file:{canary}", canary.name, server.address):
            assert not broken_rules(answers_of(decoder, reference.make(target)), SETTINGS[1])
        assert watch.touched() == set()
        assert not server.was_called()


@pytest.mark.parametrize(
    "demuxer", ["hls", "dash", "concat", "sdp", "rtsp", "mov", "asf", "image2", "imf", "webm_dash_manifest"]
)
def test_not_even_by_a_demuxer_that_follows_them(demuxer, canary):
    child = [sys.executable, "-c", PINNED, str(os.getpid()), demuxer]
    following = Decoder(SETTINGS[0], command=child)
    try:
        with watched(canary.parent) as watch, serving() as server:
            for reference in references.REFERENCES:
                for target in (str(canary), server.address):
                    *before, last = answers_of(following, reference.make(target))
                    assert not broken_rules([*before, last], SETTINGS[0])
                    assert not (isinstance(last, Failed) and last.code.startswith("decoder_")), reference.name
            assert watch.touched() == set()
            assert not server.was_called()
    finally:
        following.close()


@pytest.mark.parametrize("name", ["hls", "ffconcat", "ffconcat of subfile and data", "mov alias"])
def test_ffmpeg_left_to_itself_would_follow_it_and_be_seen(name, canary, tmp_path_factory):
    reference = next(one for one in references.REFERENCES if one.name == name)
    path = tmp_path_factory.mktemp("reference") / "list"
    path.write_bytes(reference.make(str(canary)))
    with watched(canary.parent) as watch:
        with av.open(str(path), format=reference.demuxer, options={**EVERYTHING, **FOLLOWS[reference.demuxer]}) as film:
            next(film.decode(audio=0), None)
        assert watch.touched() == {"canary"}


@pytest.mark.parametrize("name", ["hls", "ffconcat"])
def test_ffmpeg_left_to_itself_would_call_the_server_and_be_seen(name, tmp_path):
    reference = next(one for one in references.REFERENCES if one.name == name)
    options = {**EVERYTHING, **FOLLOWS[reference.demuxer]}
    with serving() as server:
        path = tmp_path / "list"
        path.write_bytes(reference.make(server.address))
        with (
            pytest.raises(av.error.FFmpegError),
            av.open(str(path), format=reference.demuxer, options=options, timeout=1) as film,
        ):
            next(film.decode(audio=0))
        assert server.was_called()


# Tars


def test_a_good_tar_is_listed_and_read_whole(tmp_path):
    for suffix, content in ((".tar", tars.good()), (".tar.gz", tars.zipped(tars.good()))):
        path = tmp_path / f"good{suffix}"
        path.write_bytes(content)
        found = shards.look_through(path)
        assert found["outcome"] == "listed"
        assert found["broken"] == []
        assert len(found["names"]) == 3


@pytest.fixture(scope="module")
def lister():
    ours = shards.Lister()
    yield ours
    ours.end()


def wrong_with(some, folder, timeout_seconds=shards.TIMEOUT_SECONDS):
    tally = shards.ShardTally()
    shards.run(some, folder, tally, timeout_seconds)
    return tally


@pytest.mark.parametrize("tar", tars.hand_made(), ids=lambda tar: tar.name)
def test_a_tar_that_lies_is_listed_or_refused(tar, tmp_path, lister):
    tally = shards.ShardTally()
    shards.note(tar, lister.look_through(tar, tmp_path, shards.TIMEOUT_SECONDS), tally)
    assert tally.broken == []
    assert tally.peak_bytes < shards.MUCH_MEMORY


def test_a_tar_cut_anywhere_lists_what_came_before(tmp_path):
    assert wrong_with(tars.truncations(), tmp_path).broken == []


def test_changed_tars_are_listed_or_refused(tmp_path):
    tally = wrong_with(islice(tars.mutants(SEED), N_TARS), tmp_path, 3.0)
    assert tally.tried == N_TARS
    assert tally.broken == []
    assert tally.peak_bytes < shards.MUCH_MEMORY


def test_a_gzip_bomb_is_listed_in_flat_memory(tmp_path):
    bomb = next(tar for tar in tars.hand_made() if tar.name == "256 MB of zeros")
    tally = wrong_with([bomb], tmp_path)
    assert tally.outcomes == {"listed": 1}
    assert tally.peak_bytes < shards.MUCH_MEMORY
