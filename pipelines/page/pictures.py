"""Spectrograms as small PNG pictures: time to the right, pitch upwards, one scale of colours for paper and night."""

import struct
import zlib
from typing import Final

import numpy as np

MOST_COLUMNS: Final = 480
MOST_ROWS: Final = 96
RANGE_DB: Final = 60.0  # below the loudest point; what is quieter is the ground's colour
STOPS: Final = ((0x0B, 0x16, 0x20), (0x15, 0x3B, 0x4F), (0x1F, 0x73, 0x7A), (0x7F, 0xB7, 0x93), (0xF6, 0xED, 0xC6))


def picture(values: np.ndarray, kind: str) -> bytes:
    """Return a spectrogram, shape (frames, bins) of one of our kinds, as a PNG."""
    levels = _shrunk(_decibels(values, kind))
    top = float(levels.max())
    shades = np.clip((levels - (top - RANGE_DB)) / RANGE_DB, 0, 1) if kind != "mfcc" else _stretched(levels)
    return _png((shades * 255).astype(np.uint8).T[::-1])


def _decibels(values: np.ndarray, kind: str) -> np.ndarray:
    """Return values in dB; MFCCs are no power and stay as they are."""
    clean = np.nan_to_num(values.astype(np.float32), posinf=0.0, neginf=0.0)
    if kind == "log_mel":
        return clean * np.float32(10 / np.log(10))
    return 10 * np.log10(np.maximum(clean, 1e-10)) if kind == "power" else clean


def _shrunk(levels: np.ndarray) -> np.ndarray:
    """Return the loudest of neighbours, so that no more than a screen's worth is left."""
    frames, bins = levels.shape
    across = np.unique(np.linspace(0, frames, min(frames, MOST_COLUMNS), endpoint=False).astype(int))
    up = np.unique(np.linspace(0, bins, min(bins, MOST_ROWS), endpoint=False).astype(int))
    shrunk: np.ndarray = np.maximum.reduceat(np.maximum.reduceat(levels, across, axis=0), up, axis=1)
    return shrunk


def _stretched(levels: np.ndarray) -> np.ndarray:
    low, high = np.percentile(levels, [2, 98])
    stretched: np.ndarray = np.clip((levels - low) / max(high - low, 1e-9), 0, 1)
    return stretched


def _png(pixels: np.ndarray) -> bytes:
    """Return rows of shades, 0 to 255, as a PNG with our palette."""
    height, width = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    parts = ((b"IHDR", header), (b"PLTE", _palette()), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in parts)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _palette() -> bytes:
    places = np.linspace(0, len(STOPS) - 1, 256)
    columns = [np.interp(places, range(len(STOPS)), [stop[part] for stop in STOPS]) for part in range(3)]
    return np.stack(columns, axis=1).round().astype(np.uint8).tobytes()
