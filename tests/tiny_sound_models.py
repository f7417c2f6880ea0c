"""Tiny AST and CLAP checkpoints of random weights, written as transformers writes real ones."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTForAudioClassification,
    ASTModel,
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    ClapProcessor,
    PreTrainedTokenizerFast,
)

AST_FRAMES = 128  # 1.28 s, as the checkpoints of spoken commands have it
WORDS = ("a", "beep", "chanting", "crowd", "man", "of", "speaking", "the", "voice", "woman")


def write_ast(folder: Path, labels: int = 5, *, encoder: bool = False, frames: int = AST_FRAMES, **settings) -> Path:
    """Write an ASTForAudioClassification, or an ASTModel, with its feature extractor; return the folder."""
    torch.manual_seed(labels)
    config = ASTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_length=frames,
        id2label={number: f"sound {number}" for number in range(labels)},
        label2id={f"sound {number}": number for number in range(labels)},
        **settings,
    )
    _scramble((ASTModel if encoder else ASTForAudioClassification)(config)).save_pretrained(folder)
    ASTFeatureExtractor(max_length=frames, mean=-4.5, std=4.25).save_pretrained(folder)
    return folder


def write_clap(folder: Path, *, fusion: bool = False, dim: int = 24, seed: int = 0) -> Path:
    """Write a ClapModel with its processor; return the folder."""
    torch.manual_seed(seed)
    audio = {
        "patch_embeds_hidden_size": 16,
        "depths": [1, 1],
        "num_attention_heads": [2, 2],
        "hidden_size": 32,  # 16 doubled by each stage but the last
        "enable_fusion": fusion,
        "fusion_type": "aff_2d" if fusion else None,
        "spec_size": 256,
        "num_hidden_layers": 2,
    }
    text = {
        "vocab_size": len(WORDS) + 4,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 34,
    }
    model = _scramble(ClapModel(ClapConfig(audio_config=audio, text_config=text, projection_dim=dim)))
    extractor = ClapFeatureExtractor(
        truncation="fusion" if fusion else "rand_trunc", frequency_min=50, frequency_max=14_000
    )
    model.save_pretrained(folder)
    ClapProcessor(extractor, _tokenizer()).save_pretrained(folder)
    return folder


def _scramble(model: torch.nn.Module) -> torch.nn.Module:
    """Give every weight and statistic a value of its own: fresh models are zero where an error would not show."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
        for name, statistic in model.named_buffers():
            if name.endswith("running_mean"):
                statistic.copy_(torch.randn_like(statistic) * 5 - 20)
            elif name.endswith("running_var"):
                statistic.copy_(torch.rand_like(statistic) * 200 + 100)
    return model.eval()


def _tokenizer() -> PreTrainedTokenizerFast:
    specials = ("<s>", "<pad>", "</s>", "<unk>")
    vocabulary = {word: number for number, word in enumerate((*specials, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = ("bos_token", "pad_token", "eos_token", "unk_token")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **dict(zip(names, specials, strict=True)))
