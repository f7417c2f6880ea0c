"""What is read: one object, or a member of a shard, at the version that was planned."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Place:
    """Where a recording lies that is no object of its own.

    Attributes:
        shard: uri of the tar or Parquet file; etag and time of its Source are the shard's.
        shard_bytes: how big that is.
        piece: which part of the shard can only be read from its beginning: the whole of a .tar.gz (0), a row group of
            a Parquet file; None in a .tar, which is read at any byte.
        offset: the byte its data starts at (.tar), its number among the members (.tar.gz) or its row in the row group.
    """

    shard: str
    shard_bytes: int
    piece: int | None
    offset: int


@dataclass(frozen=True, slots=True)
class Source:
    """One object at one version, as it was planned. `modified_ns` counts where there is no etag.

    `place` says where it lies if that is inside a shard; the uri is then the shard's, `#`, and the member's name.
    """

    uri: str
    etag: str | None
    size_bytes: int
    modified_ns: int | None
    place: Place | None = None

    @property
    def object_uri(self) -> str:
        """The object that is read: the recording's own, or its shard."""
        return self.place.shard if self.place else self.uri


def local_path(uri: str) -> str | None:
    """Return the path of a local uri (plain or file://), None for a remote one."""
    if uri.startswith("file://"):
        return uri.removeprefix("file://")
    return None if "://" in uri else uri
