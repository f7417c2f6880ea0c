"""Small random CTC checkpoints, of one vocabulary or of many languages, as transformers saves them."""

import json
import string
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

from tests.tiny_speech_models import save

LETTERS = ["<pad>", "<s>", "</s>", "<unk>", "|", *string.ascii_uppercase, "'"]


def write_ctc(folder: Path, variant: str = "wav2vec2 with group norm") -> Path:
    """Write it into `folder`."""
    save(folder, variant, "ForCTC", vocab_size=len(LETTERS), pad_token_id=0)
    (folder / "vocab.json").write_text(json.dumps({letter: number for number, letter in enumerate(LETTERS)}))
    transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), pad_token="<pad>").save_pretrained(folder)
    return folder


LANGUAGES = {
    "eng": ["<pad>", "<s>", "</s>", "<unk>", "|", *string.ascii_lowercase, "'"],
    "fra": ["<s>", "<pad>", "</s>", "<unk>", "|", *"zyxwvutsrqponmlkjihgfedcba", *"éèàçù", "ch"],
}
"""Labels by language; the blank has another number in each, and so has every letter."""


def write_languages(folder: Path, **settings) -> Path:
    """Write a checkpoint with an adapter for each of LANGUAGES into `folder`, its own weights those of a third."""
    size = len(LANGUAGES["eng"])
    save(folder, "wav2vec2 with attention adapters", "ForCTC", vocab_size=size, pad_token_id=0, **settings)
    vocabularies = {name: {label: at for at, label in enumerate(labels)} for name, labels in LANGUAGES.items()}
    (folder / "vocab.json").write_text(json.dumps(vocabularies))
    transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), target_lang="eng").save_pretrained(folder)
    network = transformers.Wav2Vec2ForCTC.from_pretrained(folder)
    for seed, (language, labels) in enumerate(LANGUAGES.items()):
        draw = torch.Generator().manual_seed(seed)
        shapes = {name: tensor.shape for name, tensor in network.state_dict().items() if "adapter_layer" in name} | {
            "lm_head.weight": (len(labels), network.config.hidden_size),
            "lm_head.bias": (len(labels),),
        }
        adapter = {name: torch.randn(shape, generator=draw) * 0.5 for name, shape in shapes.items()}
        save_file(adapter, folder / f"adapter.{language}.safetensors", {"format": "pt"})
    return folder
