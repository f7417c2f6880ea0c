"""OpenL3 against openl3 0.4.2's own outputs (tests/data/openl3), and against plain readings of its description."""

import math
from functools import cache
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers.audio_utils import mel_filter_bank

from schemas import wire
from workers.actors import PoolMember, PoolSpec
from workers.models import keras_h5
from workers.models.kinds import KINDS
from workers.models.mel import area_mel_filters
from workers.models.model import Clip, Loading, ModelStage
from workers.models.openl3 import OpenL3Model
from workers.models.openl3_front_ends import openl3_spectrogram
from workers.models.openl3_settings import OpenL3Settings, check_openl3
from workers.models.openl3_weights import POOLS, load_openl3
from workers.weights import ModelError, resolve

DATA = Path(__file__).parents[3] / "tests/data/openl3"
RATE = 48_000
CPU = torch.device("cpu")
CHANNELS = (1, 64, 64, 128, 128, 256, 256, 512, 512)
FRONT_ENDS = ("kapre", "librosa", "kapre-0.1")
REPRESENTATIONS = ("linear", "mel128", "mel256")


def golden_audio():
    """2.6 s at 48 kHz; the file holds the float32 bytes in four planes, which compress better."""
    with np.load(DATA / "audio_48k.npz") as arrays:
        return np.ascontiguousarray(arrays["bytes"].T).view(np.float32).reshape(-1)


@cache
def golden():
    with np.load(DATA / "mel256.npz") as arrays:
        return dict(arrays)


@cache
def random_layers():
    """The weights behind the golden outputs, redrawn: 16 layers in network order."""
    rng = np.random.default_rng(256)
    layers = []
    for inner, outer in pairwise(CHANNELS):
        gamma, beta, mean = rng.uniform(0.8, 1.2, inner), *(rng.standard_normal(inner) * 0.1 for _ in range(2))
        layers.append([gamma, beta, mean, rng.uniform(0.5, 1.5, inner)])
        kernel = rng.standard_normal((3, 3, inner, outer)) * np.sqrt(2 / (9 * inner))
        layers.append([kernel, rng.standard_normal(outer) * 0.1])
    return [[array.astype(np.float32) for array in layer] for layer in layers]


def write_keras(path, layers, root=None):
    """An HDF5 file as Keras' save_weights writes it, numbered as in a session that has built other models before."""
    with h5py.File(path, "w") as file:
        top = file.create_group(root) if root else file
        names = ["input_7", "melspectrogram_3"]
        for number, arrays in enumerate(layers):
            names += [f"{'conv2d' if len(arrays) == 2 else 'batch_normalization'}_{90 + number // 2}", f"act_{number}"]
            roles = ("kernel", "bias") if len(arrays) == 2 else ("gamma", "beta", "moving_mean", "moving_variance")
            group = top.create_group(names[-2])
            weights = [f"{names[-2]}/{role}:0" for role in roles]
            group.attrs["weight_names"] = [name.encode() for name in weights]
            for name, array in zip(weights, arrays, strict=True):
                group[name] = array
        for name in names:
            top.require_group(name).attrs.setdefault("weight_names", np.array([], "S1"))
        top.attrs["layer_names"] = [name.encode() for name in names]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One file of weights under the names of several: convolutions fit whatever the representation is."""
    made = tmp_path_factory.mktemp("openl3")
    first = made / "openl3_audio_mel256_music-v0_4_0.h5"
    write_keras(first, random_layers())
    for name in ("mel128_music", "linear_env"):
        (made / f"openl3_audio_{name}-v0_4_0.h5").hardlink_to(first)
    return made


def stage(pooling="frames", **options):
    return ModelStage("embeddings/mine", "embeddings", {"model": "mine", "pooling": pooling, "options": options})


def model(folder, pooling="frames", batch_size=16, **options):
    return OpenL3Model.load(Loading(folder, CPU, torch.float32, (stage(pooling, **options),), batch_size, 120.0))


@pytest.mark.parametrize("size", [512, 6144])
@pytest.mark.parametrize("front_end", ["kapre", "librosa"])
def test_embeddings_equal_the_reference(folder, front_end, size):
    """The 6144 numbers are held against every seventh, which meets all places and channels."""
    chosen = model(folder, front_end=front_end, embedding_size=size, hop_seconds=0.5)
    (frames,) = chosen.run([Clip(golden_audio())])
    expected = golden()[f"{front_end}_{size}"]
    assert frames.shape == (6, size)
    step = 7 if size == 6144 else 1
    # Random weights spread embeddings by 80 or so; the two front-ends differ by 3 in the mean, and by 98 at most.
    np.testing.assert_allclose(frames[:, ::step], expected, rtol=1e-4, atol=1e-4 * expected.std())
    (row,) = chosen.rows(frames, stage())
    times = np.arange(row["n_frames"]) * row["hop_seconds"]
    np.testing.assert_allclose(times, golden()["timestamps"])
    assert (row["dim"], len(row["vector"])) == (size, 6 * size)
    assert row["layer"] == f"audio_embedding_layer (mel256, music, {front_end})"


def slaney(mel):
    """Malcolm Slaney's scale in Hz: 66.7 Hz a step up to 1 kHz, 27 equal ratios from there to 6.4 kHz."""
    return mel * 200 / 3 if mel < 15 else 1_000 * 6.4 ** ((mel - 15) / 27)


def plain_mel_bank(n_mels, htk):
    """(n_mels, 1025): triangles drawn one by one between neighbours that lie evenly on the mel scale."""
    top = 2595 * math.log10(1 + 24_000 / 700) if htk else 15 + 27 * math.log(24) / math.log(6.4)
    steps = [top * number / (n_mels + 1) for number in range(n_mels + 2)]
    points = [700 * (10 ** (mel / 2595) - 1) if htk else slaney(mel) for mel in steps]
    hertz = np.arange(1_025) * RATE / 2_048
    corners = zip(points, points[1:], points[2:], strict=False)
    return np.array([2 / (high - low) * np.interp(hertz, [low, mid, high], [0, 1, 0]) for low, mid, high in corners])


def plain_stft(window, n_fft, frames):
    """(n_fft // 2 + 1, frames) in float64: frames of `n_fft` samples every 242, a periodic Hann window, an FFT each."""
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    padded = np.concatenate([window.astype(np.float64), np.zeros(n_fft)])
    return np.array([np.abs(np.fft.rfft(padded[242 * frame :][:n_fft] * hann)) for frame in range(frames)]).T


def plain_spectrogram(window, input_repr, front_end):
    """The front-ends as their descriptions put them, for one window."""
    if input_repr == "linear":
        amplitudes = plain_stft(window, 512, 1 + (RATE - 512) // 242)  # whole frames only
    elif front_end == "kapre":  # tf.signal.stft with pad_end: as many frames as hops begin
        amplitudes = plain_mel_bank(int(input_repr[3:]), False) @ plain_stft(window, 2_048, math.ceil(RATE / 242))
    elif front_end == "librosa":  # centred: half a frame of zeros in front
        centred = np.concatenate([np.zeros(1_024), window, np.zeros(1_024)])
        amplitudes = plain_mel_bank(int(input_repr[3:]), False) @ plain_stft(centred, 2_048, 1 + RATE // 242)
    else:  # kapre 0.1.4: 'same' padding of a convolution with stride 242, mel of the power
        total = 2_048 - RATE % 242
        padded = np.concatenate([np.zeros(total // 2), window, np.zeros(total - total // 2)])
        power = plain_stft(padded, 2_048, math.ceil(RATE / 242)) ** 2
        amplitudes = np.sqrt(plain_mel_bank(int(input_repr[3:]), True) @ power)
    decibels = 10 * np.log10(np.maximum(amplitudes, 1e-10))
    return np.maximum(decibels - decibels.max(), -80)


def sounds():
    """Windows of 1 s, float32: loud and faint noise, and a chirp that leaves no bin empty."""
    rng = np.random.default_rng(3)
    seconds = np.arange(RATE) / RATE
    chirp = 0.5 * np.sin(2 * np.pi * (100 * seconds + 10_000 * seconds**2)) + 0.01 * rng.standard_normal(RATE)
    late = np.where(seconds > 0.5, rng.standard_normal(RATE) * 0.2, 0)
    return np.array([0.3 * rng.standard_normal(RATE), 1e-4 * rng.standard_normal(RATE), chirp, late], np.float32)


@pytest.mark.parametrize("input_repr", REPRESENTATIONS)
@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_a_front_end_equals_a_plain_reading_of_its_description(input_repr, front_end):
    windows = sounds()
    found = openl3_spectrogram(torch.from_numpy(windows), input_repr, front_end).numpy()
    expected = np.array([plain_spectrogram(window, input_repr, front_end) for window in windows])
    assert found.shape[1:] == {"linear": (257, 197), "mel128": (128, 199), "mel256": (256, 199)}[input_repr]
    errors = np.abs(found - expected)  # dB; float32 is coarse where a bin is a millionth of the loudest
    assert errors[expected > -30].max() < 1e-3
    assert errors.mean() < 1e-4
    np.testing.assert_allclose(10 ** (found / 10), 10 ** (expected / 10), rtol=0, atol=3e-6)


def test_the_front_ends_differ_in_mel_and_agree_on_the_linear_spectrogram():
    windows = torch.from_numpy(sounds())
    linear = [openl3_spectrogram(windows, "linear", name) for name in FRONT_ENDS]
    assert torch.equal(linear[0], linear[1])
    assert torch.equal(linear[0], linear[2])
    mels = [openl3_spectrogram(windows, "mel128", name) for name in FRONT_ENDS]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (mels[one] - mels[other]).abs().max() > 1


@pytest.mark.filterwarnings("ignore:At least one mel filter")  # narrow ones are empty in the reference as well
@pytest.mark.parametrize("scale", ["slaney", "htk"])
@pytest.mark.parametrize(("rate", "n_fft", "n_mels"), [(48_000, 2_048, 128), (48_000, 2_048, 256), (16_000, 400, 40)])
def test_a_mel_bank_equals_that_of_transformers(rate, n_fft, n_mels, scale):
    expected = mel_filter_bank(n_fft // 2 + 1, n_mels, 0, rate / 2, rate, norm="slaney", mel_scale=scale)
    np.testing.assert_allclose(area_mel_filters(rate, n_fft, n_mels, scale), expected, rtol=1e-5, atol=1e-8)


def plain_network(spectrogram, input_repr):
    """The last convolution's maps, bins x frames x channels, layer by layer as the release's models.py lists them."""
    maps = torch.from_numpy(spectrogram)[None, None]
    layers = [[torch.from_numpy(array) for array in layer] for layer in random_layers()]
    for number in range(8):
        gamma, beta, mean, variance = layers[2 * number]
        maps = functional.batch_norm(maps, mean, variance, gamma, beta, eps=1e-3)
        maps = functional.relu(maps) if number else maps
        maps = functional.max_pool2d(maps, 2) if number in (2, 4, 6) else maps
        kernel, bias = layers[2 * number + 1]
        maps = functional.conv2d(functional.pad(maps, (1, 1, 1, 1)), kernel.permute(3, 2, 0, 1), bias)
    return maps[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("input_repr", REPRESENTATIONS)
def test_the_network_equals_its_description(folder, input_repr):
    window = torch.from_numpy(sounds()[2:3])
    spectrogram = openl3_spectrogram(window, input_repr, "kapre")
    with torch.inference_mode():
        maps = plain_network(spectrogram[0].numpy(), input_repr)
        for size in (512, 6144):
            network = load_openl3(next(folder.iterdir()), input_repr, size)
            found = network(spectrogram)[0].numpy()
            rows, columns = POOLS[input_repr, size]
            tiles = maps.reshape(maps.shape[0] // rows, rows, maps.shape[1] // columns, columns, 512)
            expected = tiles.max(axis=(1, 3)).reshape(-1)
            assert len(found) == size
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * expected.std())


def reference_windows(audio, center, hop_seconds):
    """openl3 0.4.2, core.py: zeros in front, zeros behind up to a whole hop, windows of a second."""
    hop = int(hop_seconds * RATE)
    padded = np.concatenate([np.zeros(24_000 if center else 0), audio])
    missing = RATE - len(padded) if len(padded) < RATE else -(len(padded) - RATE) % hop
    padded = np.concatenate([padded, np.zeros(missing)])
    return np.array([padded[start : start + RATE] for start in range(0, len(padded) - RATE + 1, hop)])


class Digest(nn.Module):
    """In the network's place: four numbers that tell a window's spectrogram from others, at no cost."""

    def forward(self, spectrograms):
        self.sizes = [*getattr(self, "sizes", []), len(spectrograms)]
        flat = spectrograms.flatten(1)
        return torch.stack([flat.mean(1), flat.std(1), flat[:, ::7].mean(1), flat[:, -1000:].mean(1)], 1)


def digesting(pooling="frames", batch_size=4, **options):
    return OpenL3Model(Digest(), OpenL3Settings.of(options), pooling, CPU, torch.float32, batch_size)


@pytest.mark.parametrize("samples", [1, 23_999, 24_000, 24_001, 48_000, 48_001, 52_800, 100_000])
@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("hop_seconds", [0.1, 0.29, 1.5])
def test_windows_are_those_of_the_reference(samples, center, hop_seconds):
    audio = (0.1 * np.random.default_rng(samples).standard_normal(samples)).astype(np.float32)
    (frames,) = digesting(input_repr="mel128", center=center, hop_seconds=hop_seconds).run([Clip(audio)])
    windows = torch.from_numpy(reference_windows(audio, center, hop_seconds).astype(np.float32))
    expected = Digest()(openl3_spectrogram(windows, "mel128", "kapre")).numpy()
    assert len(frames) == OpenL3Settings(center=center, hop_seconds=hop_seconds).windows(samples)
    np.testing.assert_allclose(frames, expected, rtol=0, atol=1e-3)


def clips():
    rng = np.random.default_rng(5)
    odd = [np.zeros(RATE), np.full(30_000, 0.7), np.sign(np.sin(np.arange(60_000) / 20)), np.ones(1), np.zeros(0)]
    noises = [0.2 * rng.standard_normal(length) for length in (10_000, 48_000, 130_000)]
    return [Clip(np.asarray(waveform, np.float32)) for waveform in [*odd, *noises]]


def test_what_else_is_in_a_call_does_not_change_an_embedding(folder):
    chosen = model(folder, "mean", input_repr="mel128", embedding_size=512, hop_seconds=1.0)
    some = [clips()[position] for position in (0, 4, 7, 5)]
    together = chosen.run(some)
    for clip, result, shuffled in zip(some, together, reversed(chosen.run(some[::-1])), strict=True):
        (alone,) = chosen.run([clip])
        assert np.isfinite(result).all()
        np.testing.assert_allclose(result, alone, rtol=1e-4, atol=1e-4 * alone.std())
        np.testing.assert_allclose(result, shuffled, rtol=1e-4, atol=1e-4 * alone.std())


@pytest.mark.parametrize("pooling", ["mean", "mean_std", "max", "first", "frames"])
def test_odd_clips_have_a_finite_embedding_whatever_surrounds_them(pooling):
    chosen = digesting(pooling, hop_seconds=0.4)
    for clip, result in zip(clips(), chosen.run(clips()), strict=True):
        (alone,) = chosen.run([clip])
        (row,) = chosen.rows(result, stage(pooling))
        assert np.isfinite(row["vector"]).all()
        np.testing.assert_allclose(result, alone, rtol=0, atol=1e-4)


def test_nothing_one_zero_and_a_second_of_silence_are_the_same(folder):
    chosen = digesting(center=False, hop_seconds=1.0)
    nothing, one, second = chosen.run([Clip(np.zeros(n, np.float32)) for n in (0, 1, RATE)])
    assert nothing.tolist() == one.tolist() == second.tolist()
    assert chosen.run([]) == []


def test_an_hour_goes_through_in_small_batches():
    chosen = digesting("mean", batch_size=16, input_repr="mel128", hop_seconds=60.0)
    (vector,) = chosen.run([Clip(np.zeros(3_600 * RATE, np.float32))])
    assert np.isfinite(vector).all()
    assert sum(chosen._network.sizes) == 61
    assert max(chosen._network.sizes) == 2


def test_a_nan_stays_in_its_clip():
    broken = np.zeros(RATE, np.float32)
    broken[7] = np.nan
    before, middle, after = digesting("mean").run([Clip(np.zeros(RATE, np.float32)), Clip(broken), clips()[6]])
    assert np.isfinite(before).all()
    assert np.isfinite(after).all()
    assert np.isnan(middle).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hop": 0.1}, r"no option hop; it has input_repr, content, embedding_size, front_end, hop_seconds, center"),
        ({"input_repr": "mel64"}, "input_repr is 'mel64'; it is one of mel256, mel128, linear"),
        ({"content": "speech"}, "one of music, env"),
        ({"embedding_size": 256}, "one of 6144, 512"),
        ({"embedding_size": "512"}, "one of 6144, 512"),
        ({"front_end": "torch"}, "one of kapre, librosa, kapre-0.1"),
        ({"hop_seconds": 0}, "hop_seconds is 0"),
        ({"hop_seconds": 1e-6}, "at least"),
        ({"hop_seconds": float("nan")}, "hop_seconds is nan"),
        ({"hop_seconds": True}, "hop_seconds is True"),
        ({"center": "yes"}, "center is 'yes'"),
    ],
)
def test_options_that_no_release_has_are_refused(folder, options, message):
    with pytest.raises(ValueError, match=message):
        check_openl3(folder, "embeddings", {"options": options})
    with pytest.raises(ValueError, match=message):
        model(folder, **options)


def test_what_can_be_followed_passes_the_check(folder):
    check = KINDS["openl3"].check
    check(folder, "embeddings", {"pooling": "mean"})
    check(folder, "embeddings", {"layer": None, "options": {"input_repr": "linear", "content": "env"}})
    with pytest.raises(ValueError, match="leave `layer` out"):
        check(folder, "embeddings", {"layer": 3})


def test_a_missing_file_is_named_with_where_to_get_it(folder):
    name = "openl3_audio_mel128_env-v0_4_0.h5"
    with pytest.raises(
        ValueError, match=rf"lacks {name}; download https://github.com/marl/openl3/raw/models/{name}.gz"
    ):
        check_openl3(folder, "embeddings", {"options": {"input_repr": "mel128", "content": "env"}})


def test_a_missing_h5py_is_named_with_its_extra(folder, monkeypatch):
    monkeypatch.setattr(keras_h5.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install -c constraints.txt '\.\[hdf5\]'"):
        check_openl3(folder, "embeddings", {})
    with pytest.raises(ValueError, match=r"pip install -c constraints.txt '\.\[hdf5\]'"):
        model(folder)


def test_files_of_other_networks_are_refused(tmp_path):
    layers = random_layers()
    path = tmp_path / "openl3_audio_mel256_music-v0_4_0.h5"
    for wrong in (layers[:-1], layers[2:], [*layers[:2], *layers[4:6], *layers[2:4], *layers[6:]]):
        write_keras(path, wrong)
        with pytest.raises(ValueError, match="does not hold the 16 layers"):
            load_openl3(path, "mel256", 512)
    path.write_bytes(b"\x1f\x8b not unpacked")
    with pytest.raises(ValueError, match=r"is no HDF5 file .* has to be unpacked"):
        load_openl3(path, "mel256", 512)
    with h5py.File(path, "w") as file:
        file["x"] = np.zeros(3)
    with pytest.raises(ValueError, match="no attribute layer_names"):
        load_openl3(path, "mel256", 512)


def test_weights_inside_a_whole_saved_model_are_found(tmp_path):
    write_keras(tmp_path / "model.h5", random_layers(), root="model_weights")
    network = load_openl3(tmp_path / "model.h5", "mel256", 512)
    assert sum(parameter.numel() for parameter in network.parameters()) == 2 + sum(
        array.size for layer in random_layers()[1::2] for array in layer
    )


def test_the_name_stands_for_a_folder_of_the_cache(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("PHONOLAKE_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=rf"{tmp_path}/openl3, which is not there; download https://.*\.gz .*gunzip"):
        resolve("openl3")
    (tmp_path / "openl3").symlink_to(folder)
    found = resolve("openl3")
    assert (found.kind, found.folder, found.revision) == ("openl3", tmp_path / "openl3", found.digest[:16])
    assert resolve(str(folder)).kind == "openl3"


def test_a_pool_member_fills_the_table_from_16_kilohertz(folder):
    told = stage("frames", input_repr="mel128", embedding_size=512, hop_seconds=0.5)
    spec = PoolSpec(str(folder), "openl3", resolve(str(folder)).digest, (told,), threads=1, batch_size=4)
    pcm = (3_000 * np.sin(np.arange(16_000) / 9)).astype(np.int16).tobytes()
    row = {"recording_id": "r", "uri": "/r", "stages": [told.id], "segment_index": 0, "pcm": pcm}
    table = PoolMember(spec)(pa.Table.from_pylist([row], wire.WIRE))
    assert table[wire.error_column(told.id)].to_pylist() == [None]
    ((found,),) = table[wire.rows_column(told.id)].to_pylist()
    assert (found["model"], found["dim"], found["n_frames"], found["hop_seconds"]) == ("mine", 512, 2, 0.5)
    assert len(found["vector"]) == 2 * 512
