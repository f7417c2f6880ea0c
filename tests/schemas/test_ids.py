"""Identities: the same object at the same version, always and everywhere the same id."""

import hashlib
from itertools import combinations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.ids import recording_id, segment_ids

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


def test_a_recording_id_is_the_first_32_hex_digits_of_sha256_of_corpus_uri_and_etag():
    expected = hashlib.sha256(b"prompts\0s3://bucket/a.wav\0abc").hexdigest()[:32]
    assert recording_id("prompts", "s3://bucket/a.wav", "abc", 10, 20) == expected


def test_a_released_id_never_changes():
    assert recording_id("prompts", "s3://bucket/a.wav", "abc", 10, 20) == "0351142aa9814d71b819ad6cceb3f289"
    assert recording_id("prompts", "/audio/a.wav", None, 10, 20) == "e08ab526ac9d7d7dda5ca362448417f8"


def test_without_an_etag_size_and_time_are_the_version():
    base = recording_id("c", "/a.wav", None, 10, 20)
    assert base == recording_id("c", "/a.wav", "", 10, 20)
    assert base != recording_id("c", "/a.wav", None, 11, 20)
    assert base != recording_id("c", "/a.wav", None, 10, 21)


def test_with_an_etag_size_and_time_do_not_count():
    assert recording_id("c", "/a.wav", "e", 10, 20) == recording_id("c", "/a.wav", "e", 11, None)


def test_corpus_uri_and_version_each_make_another_recording():
    ids = [
        recording_id("c", "/a.wav", "e", 1, 1),
        recording_id("d", "/a.wav", "e", 1, 1),
        recording_id("c", "/b.wav", "e", 1, 1),
        recording_id("c", "/a.wav", "f", 1, 1),
    ]
    assert all(one != other for one, other in combinations(ids, 2))


@given(TEXT, TEXT, TEXT, TEXT, TEXT.filter(bool), TEXT.filter(bool))
def test_parts_never_run_into_each_other(corpus, other_corpus, uri, other_uri, etag, other_etag):
    same = (corpus, uri, etag) == (other_corpus, other_uri, other_etag)
    assert (recording_id(corpus, uri, etag, 1, 1) == recording_id(other_corpus, other_uri, other_etag, 1, 1)) == same


def test_a_segment_id_is_the_recording_and_five_digits():
    recordings = pa.array(["a" * 32, "b" * 32])
    assert segment_ids(recordings, pa.array([0, 99_999], pa.int32())).to_pylist() == [
        "a" * 32 + "-00000",
        "b" * 32 + "-99999",
    ]


def test_a_row_without_an_index_has_no_segment_id():
    ids = segment_ids(pa.array(["a", "a"]), pa.array([None, 3], pa.int32()))
    assert ids.to_pylist() == [None, "a-00003"]


@pytest.mark.parametrize("pieces", [[[0, None], [2]], [[], [0, 1, 2]], [[]]])
def test_chunked_columns_give_the_same_ids(pieces):
    indices = pa.chunked_array(pieces, pa.int32())
    recordings = pa.chunked_array([["r"] * len(piece) for piece in pieces], pa.string())
    flat = segment_ids(recordings.combine_chunks(), indices.combine_chunks())
    assert segment_ids(recordings, indices).to_pylist() == flat.to_pylist()


@given(st.lists(st.integers(0, 99_999), unique=True))
def test_segment_ids_sort_as_their_indices(indices):
    ids = segment_ids(pa.array(["r"] * len(indices), pa.string()), pa.array(indices, pa.int32())).to_pylist()
    assert sorted(ids) == [f"r-{index:05d}" for index in sorted(indices)]
