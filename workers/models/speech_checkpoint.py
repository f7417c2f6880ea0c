"""Checkpoints of the wav2vec 2.0 family: local safetensors only, and none of what is used left to chance."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import torch
import transformers

from workers.models.speech_settings import MODEL_TYPES

CLASSES: Final = {
    "speech": transformers.AutoModel,
    "ctc": transformers.AutoModelForCTC,
    "classifier": transformers.AutoModelForAudioClassification,
    "xvector": transformers.AutoModelForAudioXVector,
}
"""By kind (workers.models.kinds), the class in transformers whose forward is followed."""

UNUSED: Final = ("masked_spec_embed", "objective.weight")  # of training: what is masked, and the loss over speakers


def load_network(folder: Path, kind: str, language: str | None = None) -> Any:
    """Return the network of a checkpoint folder, float32 on the CPU, in evaluation mode; `.base_model` is its encoder.

    A kind of `speech` takes the encoder out of whatever is stored around it. With a `language`, its adapter replaces
    the checkpoint's own (workers.models.language_adapters), and the head has the size of its vocabulary.

    Raises:
        OSError: the folder lacks a file.
        ValueError: it is of another family, has an adapter behind its encoder, or lacks weights that are used.
    """
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if config.model_type not in MODEL_TYPES:
        raise ValueError(f"it is of type {config.model_type}, not one of {', '.join(MODEL_TYPES)}")
    if getattr(config, "add_adapter", False):
        raise ValueError("it has an adapter behind its encoder (add_adapter), which nothing here runs")
    # Weights are read as float32, and rounded when they move: weight norms are multiplied out before.
    network, told = CLASSES[kind].from_pretrained(
        folder,
        config=config,
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
        dtype=torch.float32,
        attn_implementation="eager" if config.model_type == "wavlm" else "sdpa",
        output_loading_info=True,
    )
    _refuse_chance(network, told)
    if language is not None:
        network.load_adapter(language, local_files_only=True, use_safetensors=True)
    return network.eval()


def _refuse_chance(network: Any, told: dict[str, Any]) -> None:
    """Raise where a part that is used has no weights, or weights of the encoder found no place."""
    missing = _used(told["missing_keys"])
    mismatched = _used(key for key, *_ in told["mismatched_keys"])
    roots = tuple(f"{name}." for name, _ in network.base_model.named_children())
    prefix = f"{network.base_model_prefix}."
    strange = [key for key in _used(told["unexpected_keys"]) if key.removeprefix(prefix).startswith(roots)]
    for what, keys in (("lacks", missing), ("has another shape of", mismatched), ("has no place for", strange)):
        if keys:
            raise ValueError(f"the checkpoint {what} {len(keys)} weights, {', '.join(keys[:3])} among them")


def _used(keys: Iterable[str]) -> list[str]:
    return sorted(key for key in keys if not key.endswith(UNUSED))
