"""A small random CTC checkpoint with a vocabulary, as transformers saves both."""

import json
import string
from pathlib import Path

import transformers

from tests.tiny_speech_models import save

LETTERS = ["<pad>", "<s>", "</s>", "<unk>", "|", *string.ascii_uppercase, "'"]


def write_ctc(folder: Path, variant: str = "wav2vec2 with group norm") -> Path:
    """Write it into `folder`."""
    save(folder, variant, "ForCTC", vocab_size=len(LETTERS), pad_token_id=0)
    (folder / "vocab.json").write_text(json.dumps({letter: number for number, letter in enumerate(LETTERS)}))
    transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), pad_token="<pad>").save_pretrained(folder)
    return folder
