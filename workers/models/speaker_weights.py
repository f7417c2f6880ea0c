"""Where the speaker encoder's weights come from: the PyPI package Resemblyzer, of which only that file is read."""

import hashlib
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import save_file

from workers.models.speaker import WEIGHTS_FILE, SpeakerNetwork

PACKAGED_FILE: Final = "pretrained.pt"
PACKAGED_SHA256: Final = "39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e"
"""sha256 of the file of Resemblyzer 0.1.4, in its folder resemblyzer."""
TRAINING_ONLY: Final = {"similarity_weight", "similarity_bias"}  # of the loss


def convert_packaged(package: Path, destination: Path) -> None:
    """Write the encoder of the package folder `resemblyzer` as model.safetensors; the package is not imported.

    Raises:
        ValueError: the file is not the one that was reviewed.
        FileNotFoundError: the folder has none.
        RuntimeError: the tensors are not those of the encoder.
    """
    path = package / PACKAGED_FILE
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != PACKAGED_SHA256:
        raise ValueError(f"{path} has sha256 {digest}, not {PACKAGED_SHA256}")
    stored = torch.load(path, map_location="cpu", weights_only=True)["model_state"]
    state = {name: tensor.contiguous() for name, tensor in stored.items() if name not in TRAINING_ONLY}
    SpeakerNetwork().load_state_dict(state)
    save_file(state, destination / WEIGHTS_FILE)
