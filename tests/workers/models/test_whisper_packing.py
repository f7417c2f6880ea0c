"""Packed windows: timestamp rules, where clips lie, whose text is whose, and that what looks wrong is read alone."""

from difflib import SequenceMatcher
from itertools import pairwise

import numpy as np
import pytest
import torch
from transformers import GenerationConfig, WhisperTimeStampLogitsProcessor
from whisper_samples import CPU, heard, model, noise, read_clips, silence

from workers.models.batching import Budget
from workers.models.model import Clip
from workers.models.whisper import WhisperOptions
from workers.models.whisper_batches import packed
from workers.models.whisper_features import SAMPLE_RATE
from workers.models.whisper_guards import plain, sound_level, sound_span
from workers.models.whisper_packing import Place, Share, Sound, lay_out, packed_samples, shares, suspicions
from workers.models.whisper_timestamps import Segment, TimestampRules, segments
from workers.models.whisper_tokens import Tokens
from workers.models.whisper_windows import cut

SMALL = Tokens(start=98, end=99, no_timestamps=100, no_speech=97, task=96, languages={})
VOCABULARY = 101 + 1501
PACKED = WhisperOptions(pack=True, words=True)


def tone(seconds: float, level: float = 0.1) -> Sound:
    samples = (level * np.sin(np.arange(round(seconds * SAMPLE_RATE)) * 0.3)).astype(np.float32)
    return Sound(samples, sound_span(samples), sound_level(samples))


def test_timestamp_rules_are_those_of_transformers():
    settings = GenerationConfig(eos_token_id=99, no_timestamps_token_id=100, max_initial_timestamp_index=50)
    reference = WhisperTimeStampLogitsProcessor(settings, begin_index=1)
    rules = TimestampRules(SMALL, [0.0] * 4, CPU)
    chosen = torch.full((4, 1), SMALL.start)
    generator = torch.Generator().manual_seed(7)
    for _ in range(60):
        logits = torch.randn(4, VOCABULARY, generator=generator)
        logits[:, : SMALL.end] += 5 * torch.rand(4, 1, generator=generator)  # text and timestamps in turn
        expected = reference(chosen, logits)
        rules.apply(logits)
        assert torch.equal(logits, expected)
        token = logits.softmax(-1).multinomial(1, generator=generator)
        rules.follow(token[:, 0])
        chosen = torch.cat([chosen, token], dim=1)
    times = chosen[chosen >= SMALL.first_timestamp]
    assert len(times) > 20
    assert (chosen[:, 1:] < SMALL.end).sum() > 20


def test_a_row_does_not_end_before_its_last_sound():
    rules = TimestampRules(SMALL, [0.0, 10.0], CPU)
    for token in (SMALL.first_timestamp, 5, SMALL.first_timestamp + 100):  # 0 s, text, 2 s
        rules.follow(torch.tensor([token, token]))
    logits = torch.zeros(2, VOCABULARY)
    logits[:, SMALL.end] = 50
    rules.apply(logits)
    assert logits.argmax(-1).tolist() == [SMALL.end, SMALL.first_timestamp + 100]
    rules.keep([1])
    rules.follow(torch.tensor([SMALL.first_timestamp + 100]))
    rules.apply(again := torch.zeros(1, VOCABULARY))
    assert again.argmax(-1).item() < SMALL.end


def test_segments_lie_between_their_timestamps():
    first = SMALL.first_timestamp
    numbers = [first, 1, 2, first + 50, first + 60, 3, first + 70, first + 70, 4]
    found = segments(numbers, [-1.0] * len(numbers), SMALL)
    assert found == [
        Segment(0.0, 1.0, (1, 2), -2.0),
        Segment(pytest.approx(1.2), pytest.approx(1.4), (3,), -1.0),
        Segment(pytest.approx(1.4), None, (4,), -1.0),
    ]


@pytest.mark.parametrize("gap", [0.0, 2.0])
def test_every_clip_lies_in_one_window_apart_from_its_neighbours(gap):
    sounds = [tone(seconds) for seconds in np.random.default_rng(3).uniform(0.3, 12, 40)]
    clips = list(range(40))
    layouts = lay_out(sounds, clips, gap)
    assert sorted(place.clip for layout in layouts for place in layout) == clips
    for layout in layouts:
        ends = [place.start + len(sounds[place.clip].samples) / SAMPLE_RATE for place in layout]
        assert all(end <= 28.0 for end in ends)
        assert all(place.onset - before.offset >= gap - 0.01 for before, place in pairwise(layout))
    assert layouts == lay_out(sounds, clips[::-1], gap)
    seconds = sum(len(sound.samples) for sound in sounds) / SAMPLE_RATE + 40 * gap
    assert len(layouts) <= seconds / 28 * 1.35 + 1


def test_equal_clips_come_into_different_windows():
    sounds = [tone(seconds) for seconds in (8.0, 8.0, 5.0, 5.0, 2.0, 2.0)]
    assert [sorted(place.clip for place in layout) for layout in lay_out(sounds, range(6))] == [[0, 2, 4], [1, 3, 5]]


def test_nothing_and_one_long_clip_are_laid_out_too():
    assert lay_out([], []) == []
    assert [len(layout) for layout in lay_out([tone(30), tone(29.9)], [0, 1])] == [1, 1]


def test_packed_clips_have_one_level_and_zeros_between():
    sounds = [tone(3, 0.1), tone(2, 0.01)]
    (layout,) = lay_out(sounds, [0, 1])
    window = packed_samples(layout, sounds)
    assert np.abs(window[: 3 * SAMPLE_RATE]).max() == pytest.approx(0.1, rel=0.01)
    assert not window[3 * SAMPLE_RATE : 5 * SAMPLE_RATE - 400].any()
    assert np.abs(window[-2 * SAMPLE_RATE :]).max() == pytest.approx(0.1, rel=0.01)


AUCTION = "Nobody can say as much as this in three seconds, however fast; an auctioneer might, perhaps."
LAYOUT = (Place(7, 0.0, 0.0, 4.0), Place(3, 6.0, 6.0, 9.0), Place(5, 11.0, 11.0, 13.0))


def test_text_goes_to_the_clip_whose_sound_it_covers():
    decoded = [Segment(0.0, 2.0, (1,), -0.1), Segment(2.0, 4.2, (2,), -0.1), Segment(5.8, 9.1, (3, 4), -0.4)]
    first, second, third = shares(LAYOUT, decoded)
    assert (first.tokens, second.tokens, third.tokens) == ((1, 2), (3, 4), ())
    assert not any(one.misplaced for one in (first, second, third))
    assert second.avg_logprob == pytest.approx(-0.2)


def test_text_across_a_gap_misplaces_both_clips_and_text_in_a_gap_its_neighbours():
    across = shares(LAYOUT, [Segment(0.0, 7.5, (1,), -0.1), Segment(11.0, 13.0, (2,), -0.1)])
    assert [one.misplaced for one in across] == [True, True, False]
    between = shares(LAYOUT, [Segment(0.0, 4.0, (1,), -0.1), Segment(9.3, 10.7, (2,), -0.1)])
    assert [one.misplaced for one in between] == [False, True, True]
    unended = shares(LAYOUT, [Segment(11.0, None, (1,), -0.1)])
    assert [one.misplaced for one in unended] == [False, False, True]


@pytest.mark.parametrize(
    ("segment", "text", "others", "reason"),
    [
        (Segment(6.0, 9.0, (1, 2), -0.2), "Press one for help, please.", ["Press two."], None),
        (Segment(6.0, 9.0, (1, 2), -0.2), "", [], "empty"),
        (Segment(6.0, 8.0, (1, 2), -0.2), "Press one for help, please.", [], "cut"),
        (Segment(7.0, 9.0, (1, 2), -0.2), "Press one for help, please.", [], "cut"),
        (Segment(6.0, 9.0, (1, 2), -2.2), "Press one for help, please.", [], "unsure"),
        (Segment(6.0, 9.0, (1, 2), -0.2), "Press one for help, please.", ["press one for help please"], "echo"),
        (Segment(6.0, 9.0, (1, 2), -0.2), "no no no no no", [], "repetitive"),
        (Segment(6.0, 9.0, (1, 2), -0.2), "Bye.", [], "rate"),
        (
            Segment(6.0, 9.0, (1, 2), -0.2),
            AUCTION,
            [],
            "rate",
        ),
    ],
)
def test_a_clip_that_looks_wrong_is_suspected_for_a_reason(segment, text, others, reason):
    found = suspicions(Share(LAYOUT[1], (segment,), misplaced=False), text, others)
    assert found == (frozenset() if reason is None else {reason})


def test_packed_clips_read_as_they_do_alone():
    clips = read_clips("en", 6)
    whisper = model("whisper-tiny.en", PACKED)
    packed = [whisper._reader.read_packed, []]
    whisper._reader.read_packed = lambda *given: packed[1].append(found := packed[0](*given)) or found
    try:
        transcripts = heard(whisper, clips)
    finally:
        del whisper._reader.read_packed
    trusted = {clip for call in packed[1] for window in call for clip in window}
    assert len(trusted) >= 5
    alone = heard(model("whisper-tiny.en", WhisperOptions(words=True)), clips)
    for one, other in zip(transcripts, alone, strict=True):  # as a rule the same; a neighbour may change a word
        assert SequenceMatcher(None, plain(one.text), plain(other.text)).ratio() > 0.9
    for one, other, clip in zip(transcripts, alone, clips, strict=True):
        assert all(0 <= word.start <= word.end <= len(clip) / SAMPLE_RATE for word in one.words)
        for edge in (0, -1):
            assert one.words[edge].start == pytest.approx(other.words[edge].start, abs=0.35)
    assert heard(whisper, clips) == transcripts


def test_what_looks_wrong_is_read_as_if_it_had_not_been_packed():
    clips = [*read_clips("en", 3), noise(24_000), silence(2), np.zeros(0, np.float32), noise(31 * SAMPLE_RATE)]
    packed = heard(model("whisper-tiny.en", WhisperOptions(pack=True)), clips)
    alone = heard(model("whisper-tiny.en", WhisperOptions()), clips)
    assert [one.text for one in packed[3:]] == [one.text for one in alone[3:]]
    np.testing.assert_allclose(
        [one.avg_logprob for one in packed[3:]], [one.avg_logprob for one in alone[3:]], atol=1e-3
    )


def test_where_the_language_is_not_known_only_clips_of_one_recording_share_a_window():
    layouts = []
    clips = [Clip(tone(3).samples, 0.0, recording) for recording in ("a", "b", "a", "b", "", "c")]

    def read(some, sounds, languages):
        assert languages == [None] * len(some)
        layouts.extend(some)
        return [{} for _ in some]

    assert packed(cut(clips, None), Budget(16 * 30 * SAMPLE_RATE), read) == {}
    assert sorted(sorted(place.clip for place in layout) for layout in layouts) == [[0, 2], [1, 3]]
