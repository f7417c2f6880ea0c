"""Small random checkpoints of the wav2vec 2.0 family, and what transformers' own classes make of one clip alone."""

import json
from pathlib import Path

import numpy as np
import torch
import transformers

from workers.models.model import Loading, ModelStage

CPU = torch.device("cpu")
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "classifier_proj_size": 24,
    "conv_dim": (32,) * 7,
    "num_conv_pos_embedding_groups": 4,
    "apply_spec_augment": False,
}
LAYER = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
VARIANTS = {
    "wav2vec2 with group norm": ("Wav2Vec2", {}),
    "wav2vec2 with layer norms": ("Wav2Vec2", LAYER),
    "wav2vec2 with attention adapters": ("Wav2Vec2", LAYER | {"adapter_attn_dim": 8}),
    "conformer, relative positions": ("Wav2Vec2Conformer", {"position_embeddings_type": "relative"}),
    "conformer, rotary positions": ("Wav2Vec2Conformer", LAYER | {"position_embeddings_type": "rotary"}),
    "conformer without positions": ("Wav2Vec2Conformer", {"position_embeddings_type": None}),
    "hubert with group norm": ("Hubert", {}),
    "hubert with layer norms": ("Hubert", LAYER | {"feat_proj_layer_norm": False}),
    "hubert with batch norm": ("Hubert", {"conv_pos_batch_norm": True}),
    "wavlm with group norm": ("WavLM", {}),
    "wavlm with layer norms": ("WavLM", LAYER),
    "data2vec": ("Data2VecAudio", {"num_conv_pos_embeddings": 3, "conv_pos_kernel_size": 19}),
    "unispeech": ("UniSpeech", {}),
    "unispeech-sat": ("UniSpeechSat", LAYER),
}


def save(folder: Path, variant: str, head: str = "Model", normalises: bool = True, **settings) -> Path:
    """A checkpoint as save_pretrained writes it, no weight of which is trivial, and its preprocessor_config.json."""
    family, own = VARIANTS[variant]
    config = getattr(transformers, f"{family}Config")(**SIZES | own | settings)
    torch.manual_seed(0)
    network = getattr(transformers, f"{family}{head}")(config)
    draw = torch.Generator().manual_seed(1)
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5, generator=draw)
        elif tensor.is_floating_point() and (tensor.ndim < 2 or "embed" in name or "bias" in name):
            tensor.add_(torch.randn(tensor.shape, generator=draw) * 0.2)
        elif not name.startswith(network.base_model_prefix) and tensor.ndim == 2 and head != "Model":
            tensor.normal_(generator=draw).div_(tensor.shape[1] ** 0.5)  # a head that hears what the encoder says
    network.save_pretrained(folder)
    prepared = {"do_normalize": normalises, "feature_extractor_type": "Wav2Vec2FeatureExtractor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(prepared | {"sampling_rate": 16_000}))
    return folder


def stage(table: str, **settings) -> ModelStage:
    defaults = {"layer": None, "pooling": "mean"} if table == "embeddings" else {"top_k": 10}
    return ModelStage(f"{table}/m", table, defaults | {"options": {}} | settings)


def loading(folder: Path, *stages: ModelStage, batch_seconds: float = 10.0) -> Loading:
    return Loading(folder, CPU, torch.float32, stages or (stage("embeddings"),), 16, batch_seconds)


def noise(samples: int, seed: int = 0) -> np.ndarray:
    """Noise whose loudness changes, off zero, so that statistics over other frames are other statistics."""
    draw = np.random.default_rng(seed)
    swell = 0.02 + 0.2 * np.abs(np.sin(np.arange(samples) / 3_000.0 + seed))
    return (draw.standard_normal(samples) * swell + 0.01).astype(np.float32)


def prepared(folder: Path, waveform: np.ndarray) -> torch.Tensor:
    """What transformers' feature extractor makes of one waveform, shape (1, n)."""
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    return extractor(waveform, sampling_rate=16_000, return_tensors="pt").input_values


def reference(folder: Path, head: str = "Model"):
    """transformers' own class, as its users load it."""
    family = json.loads((folder / "config.json").read_text())["architectures"][0].partition("For")[0]
    cls = getattr(transformers, f"{family.removesuffix('Model')}{head}")
    return cls.from_pretrained(folder, attn_implementation="eager").eval()


@torch.inference_mode()
def outputs(network, folder: Path, waveform: np.ndarray):
    """The output of transformers' own class for one waveform alone, without padding and without a mask."""
    return network(input_values=prepared(folder, waveform), output_hidden_states=True)
