"""VGGish against plain readings of mel_features.py, vggish_slim.py and vggish_postprocess.py, with random weights."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from batch_independence import check_batch_independence
from safetensors.torch import save_file
from torch.nn import functional

from workers.models.kinds import KINDS
from workers.models.log_mel import log_mel_patches_of
from workers.models.model import Clip, Loading, ModelStage
from workers.models.vggish import HIDDEN, VggishModel, VggishNetwork, load_vggish, patch_count
from workers.models.vggish_settings import check_vggish, weights_file
from workers.models.windows import Piece
from workers.weights import resolve

RATE = 16_000
CPU = torch.device("cpu")
WIDTH = 64  # of the hidden layers, 4,096 in the release: its file would have 288 MB
CONVOLUTIONS = {0: (1, 64), 3: (64, 128), 6: (128, 256), 8: (256, 256), 11: (256, 512), 13: (512, 512)}
POOLED_AFTER = (0, 3, 8, 13)


def released_weights():
    """Random weights as TensorFlow has them: kernels (height, width, in, out), dense ones (in, out)."""
    rng = np.random.default_rng(10086976)
    convolutions = {
        number: (rng.standard_normal((3, 3, *sizes)) * np.sqrt(2 / 9 / sizes[0]), rng.standard_normal(sizes[1]) * 0.1)
        for number, sizes in CONVOLUTIONS.items()
    }
    dense = [
        (rng.standard_normal((inner, outer)) / np.sqrt(inner), rng.standard_normal(outer) * 0.1)
        for inner, outer in ((12_288, WIDTH), (WIDTH, WIDTH), (WIDTH, 128))
    ]
    return convolutions, dense


def torchvggish_state():
    """The same weights under torchvggish's names, (out, in, height, width) and (out, in)."""
    convolutions, dense = released_weights()
    state = {}
    for number, (kernel, bias) in convolutions.items():
        state |= {f"features.{number}.weight": kernel.transpose(3, 2, 0, 1), f"features.{number}.bias": bias}
    for number, (kernel, bias) in zip((0, 2, 4), dense, strict=True):
        state |= {f"embeddings.{number}.weight": kernel.T, f"embeddings.{number}.bias": bias}
    return {name: torch.from_numpy(np.ascontiguousarray(array, np.float32)) for name, array in state.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("vggish")
    torch.save(torchvggish_state(), made / "vggish-10086976.pth")
    rng = np.random.default_rng(7)
    np.savez(
        made / "vggish_pca_params.npz",
        pca_eigen_vectors=rng.standard_normal((128, 128)) / 10,
        pca_means=rng.standard_normal((128, 1)),
    )
    return made


def model(folder, pooling="frames", batch_seconds=120.0, **options):
    stage = ModelStage("embeddings/mine", "embeddings", {"pooling": pooling, "options": options})
    return VggishModel.load(Loading(folder, CPU, torch.float32, (stage,), 16, batch_seconds))


def plain_log_mel(waveform):
    """mel_features.log_mel_spectrogram in float64: frames in full, bands one by one, straight in mel."""
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    count = 1 + (len(waveform) - 400) // 160
    frames = np.array([waveform[160 * frame :][:400] * hann for frame in range(count)])
    magnitudes = np.abs(np.fft.rfft(frames, 512))
    mel = 1_127 * np.log(1 + np.arange(257) * RATE / 512 / 700)
    edges = np.linspace(1_127 * np.log(1 + 125 / 700), 1_127 * np.log(1 + 7_500 / 700), 66)
    bank = np.array([np.interp(mel, edges[band : band + 3], [0, 1, 0]) for band in range(64)])
    bank[:, 0] = 0
    return np.log(magnitudes @ bank.T + 0.01)


def plain_patches(waveform):
    log_mel = plain_log_mel(waveform)
    return np.array([log_mel[96 * patch : 96 * patch + 96] for patch in range(len(log_mel) // 96)])


def plain_embeddings(patches):
    """vggish_slim, maps (height, width, channels): no activation behind the last layer."""
    convolutions, dense = released_weights()
    maps = torch.from_numpy(patches.astype(np.float32))[..., None]
    for number, (kernel, bias) in convolutions.items():
        weights = [torch.from_numpy(array.astype(np.float32)) for array in (kernel, bias)]
        maps = functional.conv2d(maps.permute(0, 3, 1, 2), weights[0].permute(3, 2, 0, 1), weights[1], padding=1)
        maps = maps.relu().permute(0, 2, 3, 1)
        if number in POOLED_AFTER:
            n, height, width, channels = maps.shape
            maps = maps.reshape(n, height // 2, 2, width // 2, 2, channels).amax(dim=(2, 4))
    values = maps.reshape(len(patches), -1).numpy().astype(np.float64)
    for layer, (kernel, bias) in enumerate(dense):
        values = values @ kernel + bias
        values = np.maximum(values, 0) if layer < 2 else values
    return values


def noise(samples, seed=0, level=0.2):
    return (level * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


@pytest.mark.parametrize("samples", [15_600, 16_000, 30_959, 30_960, 48_123])
def test_the_front_end_equals_mel_features(samples):
    waveform = noise(samples, seed=samples)
    expected = plain_patches(waveform)
    assert patch_count(samples) == len(expected)
    found = log_mel_patches_of([waveform], [Piece(0, 0, len(expected))], 96, 0.01, CPU)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_embeddings_equal_the_description(folder):
    waveform = noise(3 * RATE, seed=1)
    (found,) = model(folder).run([Clip(waveform)])
    expected = plain_embeddings(plain_patches(waveform))
    assert found.shape == expected.shape == (3, 128)
    assert (expected < -0.1).any()  # no ReLU
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * expected.std())


def test_whitened_embeddings_equal_the_post_processing(folder):
    waveform = noise(3 * RATE, seed=1)
    (raw,) = model(folder).run([Clip(waveform)])
    whitened = model(folder, pca=True)
    (found,) = whitened.run([Clip(waveform)])
    with np.load(folder / "vggish_pca_params.npz") as arrays:
        vectors, means = arrays["pca_eigen_vectors"], arrays["pca_means"]
    applied = np.dot(vectors, raw.T - means).T
    clipped = np.clip(applied, -2, 2)
    expected = ((clipped + 2) * (255 / 4)).astype(np.uint8)
    assert len(np.unique(expected)) > 50
    assert np.abs(found - expected).max() <= 1  # a value on the edge of a step may fall on either side
    assert (found == expected).mean() > 0.99
    assert whitened.rows(found, None)[0]["layer"] == "embedding, pca"


@pytest.mark.parametrize("samples", [0, 1, 399, 15_360, 15_599])
def test_a_clip_too_short_for_a_patch_is_padded_with_zeros_to_one(folder, samples):
    waveform = noise(samples)
    (found,) = model(folder).run([Clip(waveform)])
    (padded,) = model(folder).run([Clip(np.pad(waveform, (0, 15_600 - samples)))])
    assert found.shape == (1, 128)
    np.testing.assert_allclose(found, padded, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "mean_std", "max", "first", "frames"])
def test_what_else_is_in_a_call_does_not_change_an_embedding(folder, pooling):
    check_batch_independence(model(folder, pooling, batch_seconds=3.0), pooling, rtol=1e-4, atol=1e-4)


def test_no_more_than_the_batch_seconds_are_in_the_network_at_once(folder):
    chosen = model(folder, "mean", batch_seconds=3.0)
    sizes = []
    hook = chosen._network.register_forward_pre_hook(lambda _, arguments: sizes.append(len(arguments[0])))
    chosen.run([Clip(noise(10 * RATE)), Clip(noise(RATE))])
    hook.remove()
    assert sizes == [3, 3, 3, 2]


def test_a_nan_stays_in_its_clip(folder):
    broken = noise(RATE)
    broken[5] = np.nan
    before, middle, after = model(folder, "mean").run([Clip(noise(RATE)), Clip(broken), Clip(noise(RATE, 2))])
    assert np.isfinite(before).all()
    assert np.isfinite(after).all()
    assert np.isnan(middle).any()


def test_the_network_of_the_release_has_its_size():
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in VggishNetwork(HIDDEN).parameters()) == 72_141_184


def test_both_formats_and_a_file_with_post_processing_give_the_same_network(folder, tmp_path):
    expected = load_vggish(folder / "vggish-10086976.pth").state_dict()
    save_file(torchvggish_state(), tmp_path / "vggish.safetensors")
    torch.save(torchvggish_state() | {"pproc.pca_means": torch.zeros(128, 1)}, tmp_path / "vggish.pth")
    assert weights_file(tmp_path).name == "vggish.safetensors"
    for name in ("vggish.safetensors", "vggish.pth"):
        found = load_vggish(tmp_path / name).state_dict()
        assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_a_tensor_missing_or_too_many_is_an_error(tmp_path):
    for change, message in (
        ({"embeddings.4.bias": None}, "Missing key.*embeddings.4.bias"),
        ({"embeddings.0.bias": None}, "Missing key.*embeddings.0.bias"),
        ({"embeddings.6.bias": torch.zeros(1)}, "Unexpected key.*embeddings.6.bias"),
        ({"features.3.bias": torch.zeros(1)}, "size mismatch for features.3.bias"),
    ):
        state = {key: tensor for key, tensor in (torchvggish_state() | change).items() if tensor is not None}
        torch.save(state, tmp_path / "vggish.pth")
        with pytest.raises(RuntimeError, match=message):
            load_vggish(tmp_path / "vggish.pth")


class Trap:
    """What a hostile checkpoint would hold."""

    def __reduce__(self):
        return (Path.touch, (Path("trapped"),))


def test_code_in_a_checkpoint_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"features.0.weight": Trap()}, tmp_path / "vggish.pth")
    with pytest.raises(pickle.UnpicklingError):
        load_vggish(tmp_path / "vggish.pth")
    assert not (tmp_path / "trapped").exists()


def test_a_folder_is_known_and_checked(folder, tmp_path):
    assert resolve(str(folder)).kind == "vggish"
    check = KINDS["vggish"].check
    check(folder, "embeddings", {"options": {"pca": True}})
    with pytest.raises(ValueError, match="no option quantise; it has pca"):
        check(folder, "embeddings", {"options": {"quantise": True}})
    with pytest.raises(ValueError, match="pca is 1; it is true or false"):
        check(folder, "embeddings", {"options": {"pca": 1}})
    with pytest.raises(ValueError, match="leave `layer` out"):
        check(folder, "embeddings", {"layer": 1})
    with pytest.raises(ValueError, match=r"has no vggish\*\.safetensors and no vggish\*\.pth"):
        check_vggish(tmp_path, "embeddings", {})
    (tmp_path / "vggish.pth").hardlink_to(folder / "vggish-10086976.pth")
    check_vggish(tmp_path, "embeddings", {})
    with pytest.raises(ValueError, match=r"lacks vggish_pca_params\.npz; download https://"):
        check_vggish(tmp_path, "embeddings", {"options": {"pca": True}})
    (tmp_path / "vggish2.pth").touch()
    with pytest.raises(ValueError, match=r"has vggish\.pth, vggish2\.pth; keep one"):
        check_vggish(tmp_path, "embeddings", {})
