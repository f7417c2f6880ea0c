"""CTC transcription: the likeliest label of every frame, its words with their times, and texts that are known aligned.

Long sound goes through the encoder in windows with context on either side (workers.models.speech_windows), so that its
frames are those of the whole; the frames of all windows are then read as one. Texts are put together by the
checkpoint's own tokenizer (transformers, Wav2Vec2CTCTokenizer).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from transformers import AutoTokenizer

from workers.models.alignment import AlignedWord, Vocabulary, align
from workers.models.language_adapters import languages_of
from workers.models.model import Clip, Loading, ModelStage, told_language
from workers.models.speech import LayerEmbedding
from workers.models.speech_checkpoint import load_network
from workers.models.speech_encoder import Reading, SpeechEncoder, valid_frames
from workers.models.whisper_guards import compression_ratio

DOUBTFUL = 0.5  # mean probability of the letters; a text below it was guessed, or is another recording's


@dataclass(frozen=True, slots=True)
class _Heard:
    """What came of one clip, where a stage wants it."""

    embedding: dict[str, Any] | None
    transcript: dict[str, Any] | None
    reference: dict[str, Any] | ValueError | None


class CtcModel:
    """A CTC model of the wav2vec 2.0 family as a pool runs it: transcripts, alignments and embeddings in one pass."""

    def __init__(self, encoder: SpeechEncoder, head: torch.nn.Module, loading: Loading) -> None:
        self.sample_rate = encoder.sample_rate
        self._encoder = encoder
        self._guesses = any(_is_guess(stage) for stage in loading.stages)
        self._aligns = any(_is_reference(stage) for stage in loading.stages)
        if self._guesses or self._aligns:
            self._tokenizer = read_tokenizer(loading.folder, _adapted(loading))
            self._vocabulary = _vocabulary(self._tokenizer)
        embedded = loading.settings("embeddings")
        self._embedding = None if embedded is None else LayerEmbedding(embedded, encoder)

        def log_probs(states: torch.Tensor, counts: torch.Tensor) -> list[torch.Tensor]:
            return valid_frames(head(states).float().log_softmax(-1), counts)

        self._readings = [Reading(None, log_probs)] if self._guesses or self._aligns else []
        if self._embedding is not None:
            self._readings.append(self._embedding.reading)

    @classmethod
    def load(cls, loading: Loading) -> Self:
        """Read the checkpoint: network and head, and the tokenizer where texts are wanted."""
        network = load_network(loading.folder, "ctc", _adapted(loading))
        encoder = SpeechEncoder.load(network.base_model, loading)
        head = network.lm_head.to(loading.device, loading.dtype)
        return cls(encoder, head, loading)

    def run(self, clips: Sequence[Clip]) -> list[_Heard]:
        """Return one result per clip."""
        found = self._encoder.encode([clip.waveform for clip in clips], self._readings)
        return [self._heard(clip, list(read)) for clip, read in zip(clips, found, strict=True)]

    def rows(self, result: _Heard, stage: ModelStage) -> list[dict[str, Any]]:
        """Return what the stage's table gets.

        Raises:
            ValueError: the reference does not fit in the sound.
        """
        if stage.table == "embeddings":
            row: dict[str, Any] | ValueError | None = result.embedding
        else:
            row = result.reference if _is_reference(stage) else result.transcript
        if isinstance(row, ValueError):
            raise row
        assert row is not None
        if stage.table == "transcripts":
            row = row | {"language": stage.settings["language"]}
        return [row]

    def _heard(self, clip: Clip, read: list[list[np.ndarray]]) -> _Heard:
        embedding = None if self._embedding is None else self._embedding.row(read[-1])
        log_probs = np.concatenate(read[0]) if self._guesses or self._aligns else np.zeros((0, 1), np.float32)
        return _Heard(
            embedding,
            self._guess(clip, log_probs) if self._guesses else None,
            self._reference(clip, log_probs) if self._aligns else None,
        )

    def _guess(self, clip: Clip, log_probs: np.ndarray) -> dict[str, Any]:
        """Return the greedy transcript of log-probabilities, shape (frames, labels)."""
        labels, surest = log_probs.argmax(-1), log_probs.max(-1)
        decoded = self._tokenizer.decode(labels.tolist(), output_word_offsets=True)
        spoken = labels != self._vocabulary.blank
        sure = float(surest[spoken].mean()) if spoken.any() else None
        words = [
            self._timed(clip, word["word"], word["start_offset"], word["end_offset"], _mean(surest, spoken, word))
            for word in decoded.word_offsets
        ]
        text = decoded.text.strip()
        flags = ["low_confidence"] if sure is not None and np.exp(sure) < DOUBTFUL else []
        return {
            "text": text,
            "words": words,
            "avg_logprob": sure,
            "compression_ratio": compression_ratio(text),
            "flags": flags,
        }

    def _reference(self, clip: Clip, log_probs: np.ndarray) -> dict[str, Any] | ValueError:
        """Return the manifest's text of a clip, aligned."""
        if not clip.reference or not clip.reference.strip():
            return {"text": "", "words": [], "flags": ["no_reference"]}
        try:
            words = align(log_probs, clip.reference, self._vocabulary)
        except ValueError as error:
            return error
        sure = [word.probability for word in words if word.probability is not None]
        flags = ["low_confidence"] if not sure or np.mean(sure) < DOUBTFUL else []
        return {"text": clip.reference, "words": [self._aligned(clip, word) for word in words], "flags": flags}

    def _aligned(self, clip: Clip, word: AlignedWord) -> dict[str, Any]:
        if word.first is None or word.end is None:
            return {"word": word.word, "start": None, "end": None, "probability": None}
        return self._timed(clip, word.word, word.first, word.end, word.probability)

    def _timed(self, clip: Clip, word: str, first: int, end: int, probability: float | None) -> dict[str, Any]:
        """Return a word with its times in the recording, from its first frame and the one behind its last."""
        hop, length = self._encoder.hop_seconds, len(clip.waveform) / self.sample_rate
        start, stop = (float(clip.start_seconds + min(frame * hop, length)) for frame in (first, end))
        return {"word": word, "start": start, "end": stop, "probability": probability}


def _is_reference(stage: ModelStage) -> bool:
    return stage.table == "transcripts" and stage.settings["align_with"] is not None


def _is_guess(stage: ModelStage) -> bool:
    return stage.table == "transcripts" and stage.settings["align_with"] is None


def _adapted(loading: Loading) -> str | None:
    """Return the language whose adapter and vocabulary are used; None where the checkpoint's own are."""
    return told_language(loading.stages) if languages_of(loading.folder) else None


def read_tokenizer(folder: Path, language: str | None = None) -> Any:
    """Return the tokenizer of a CTC checkpoint, with the vocabulary of a language where there are several.

    Raises:
        ValueError: it has none, or one that cannot say where words begin and end.
    """
    chosen = {} if language is None else {"target_lang": language}
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **chosen)
    if not hasattr(tokenizer, "word_delimiter_token_id"):
        raise ValueError(f"its tokenizer is a {type(tokenizer).__name__}, not a Wav2Vec2CTCTokenizer")
    if language is not None:
        tokenizer.set_target_lang(language)  # drops labels that were saved with the vocabulary of another language
    return tokenizer


def _vocabulary(tokenizer: Any) -> Vocabulary:
    known = tokenizer.get_vocab()
    labels = {letter: number for letter, number in known.items() if len(letter) == 1}
    return Vocabulary(labels, tokenizer.pad_token_id, known.get(tokenizer.word_delimiter_token))


def _mean(surest: np.ndarray, spoken: np.ndarray, word: dict[str, Any]) -> float:
    """Return the mean probability of the frames of a word in which a letter was the likeliest."""
    frames = slice(word["start_offset"], word["end_offset"])
    return float(np.exp(surest[frames][spoken[frames]]).mean())
