"""Which of several audio tracks is heard."""

import pytest

from tests.recordings import (
    ALIGNED,
    OTHER,
    RATE,
    VOICE,
    Track,
    delay_and_likeness,
    filmed,
    heard,
    pcm,
    refusal,
    rounded,
)


def two_tracks(muxer="mp4", codec="aac"):
    """A film in which a low voice speaks English and a high one German."""
    english = Track(pcm(), RATE, codec, 64_000, language="eng")
    german = Track(rounded(OTHER), RATE, codec, 64_000, language="deu")
    return filmed(muxer, english, german, picture="mpeg4")


@pytest.mark.parametrize(
    ("muxer", "codec", "track", "spoken", "silent"),
    [
        ("mp4", "aac", 0, VOICE, OTHER),
        ("mp4", "aac", 1, OTHER, VOICE),
        ("mp4", "aac", "eng", VOICE, OTHER),
        ("mp4", "aac", "deu", OTHER, VOICE),
        ("matroska", "flac", 1, OTHER, VOICE),
        ("matroska", "flac", "deu", OTHER, VOICE),
        ("mov", "pcm_s16le", 1, OTHER, VOICE),  # QuickTime's codes know no deu
        ("avi", "pcm_s16le", 1, OTHER, VOICE),  # and AVI has no languages
    ],
    ids=lambda value: str(value) if isinstance(value, str | int) else "",
)
def test_a_track_is_chosen_by_place_or_by_language(muxer, codec, track, spoken, silent):
    _, ending, found = heard(two_tracks(muxer, codec), track=track)
    assert ending.damage is None
    late, alike = delay_and_likeness(found, rounded(spoken))
    assert abs(late) <= ALIGNED
    assert alike > 0.99
    assert delay_and_likeness(found, rounded(silent))[1] < 0.3


def test_the_first_track_is_heard_where_none_is_asked_for():
    assert delay_and_likeness(heard(two_tracks())[2])[1] > 0.95


@pytest.mark.parametrize("track", ["fra", 2, -1])
def test_a_track_that_is_not_there_is_refused_with_what_is(track):
    error = refusal(two_tracks(), track=track)
    assert error.code == "no_audio_track"
    for word in ("mp4", "2 audio tracks", "eng", "deu", "audio.track", repr(track)):
        assert word in error.message


def test_a_film_with_one_track_is_heard_whatever_track_is_asked_for():
    film = filmed("mp4", Track(pcm(), RATE, "aac", 64_000, language="eng"), picture="mpeg4")
    for track in (0, 5, "deu"):
        assert delay_and_likeness(heard(film, track=track)[2])[1] > 0.95
