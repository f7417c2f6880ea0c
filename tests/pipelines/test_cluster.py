"""Joining a cluster: one that is not there is known soon, and said in our words."""

import os
import socket
import time

import pytest
import ray

from pipelines import cluster
from pipelines.errors import PhonolakeError


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> str:
    """RAY_ADDRESS names a port that nobody listens at."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{one.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setenv(cluster.TRIES_TO_JOIN, "1")
    monkeypatch.setattr(cluster, "PATIENCE_SECONDS", 1.0)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    return address


def test_a_cluster_that_is_not_there_is_given_up_and_ray_is_not_left_to_try_for_ever(
    nowhere: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("a port that nobody listens at is no cluster"))
    started = time.monotonic()
    with pytest.raises(PhonolakeError) as caught:
        cluster.connect()
    assert time.monotonic() - started < 10
    assert caught.value.exit_code == 1
    assert f"no Ray cluster answers at RAY_ADDRESS={nowhere}" in str(caught.value)
    assert "unset RAY_ADDRESS" in str(caught.value)
    assert capfd.readouterr().err == ""


def test_a_head_that_has_only_just_started_is_waited_for(nowhere: str, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = iter([True, True, False])
    joined = []

    def connect(*_: object, **__: object) -> socket.socket:
        if next(refused):
            raise ConnectionRefusedError(111, "Connection refused")
        return socket.socket()

    monkeypatch.setattr(cluster.socket, "create_connection", connect)
    monkeypatch.setattr(cluster, "PATIENCE_SECONDS", 60.0)
    monkeypatch.setattr(ray, "init", lambda **_: joined.append(os.environ[cluster.TRIES_TO_JOIN]))
    monkeypatch.setattr(cluster, "_silence", lambda: None)
    cluster.connect()
    assert joined == ["1"]


@pytest.mark.parametrize("address", ["no-port", "127.0.0.1:port"])
def test_an_address_that_is_none_is_refused(address: str, nowhere: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(PhonolakeError, match="no Ray cluster answers at RAY_ADDRESS="):
        cluster.connect()


def test_a_client_address_is_left_to_ray_which_gives_up_by_itself(
    nowhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**_: object) -> None:
        raise ConnectionError("ray client connection timeout")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setenv("RAY_ADDRESS", f"ray://{nowhere}")
    with pytest.raises(PhonolakeError, match="ray client connection timeout"):
        cluster.connect()
