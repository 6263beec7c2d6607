"""A hub that does not answer is asked once, for seconds, and the user is told; libraries then use what is in their cache."""

import os
import socket
import threading
import time

import huggingface_hub
import pytest

from mat_ds.errors import UserError
from mat_ds.models.build import build_tokenizer
from mat_ds.models.options import ModelConfig
from mat_ds.models.source import hub_names
from mat_ds.registry.locate import locate
from mat_ds.tasks import hub
from mat_ds.tasks.files import read_split
from mat_ds.tasks.registry import TASKS
from tests.hostile.listening import Listener


@pytest.fixture
def online(monkeypatch, tmp_path):
    """A process that may ask the hub at the address that the test sets, and has nothing in its cache."""
    client = huggingface_hub.utils._http._GLOBAL_CLIENT_FACTORY
    for name, value in (("HF_HUB_OFFLINE", False), ("HF_HUB_CACHE", str(tmp_path))):
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "SECONDS", 0.5)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    hub._answer.cache_clear()
    yield lambda address: monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    hub._answer.cache_clear()
    huggingface_hub.set_client_factory(client)


@pytest.fixture
def silent():
    """A server that accepts connections and never answers: its address, and the connections."""
    accepted, server = [], socket.create_server(("127.0.0.1", 0))

    def accept():
        while True:
            try:
                accepted.append(server.accept())
            except OSError:
                return

    threading.Thread(target=accept, daemon=True).start()
    yield f"http://127.0.0.1:{server.getsockname()[1]}", accepted
    server.close()


def refused(load):
    """The reason why something cannot be loaded, and the seconds until it is given."""
    begin = time.monotonic()
    with pytest.raises(UserError) as caught:
        load()
    return caught.value.problems[0].reason, time.monotonic() - begin


def test_a_hub_that_never_answers_is_asked_once_for_all_that_a_run_loads(online, silent, capsys):
    address, accepted = silent
    online(address)
    hub.expect_from_hub("somebody/bert", "nyu-mll/glue")
    for load in (
        lambda: build_tokenizer(ModelConfig(name="somebody/bert"), ()),
        lambda: list(read_split(TASKS["cola"], "train", None)),
        lambda: locate("somebody/bert"),
    ):
        reason, seconds = refused(load)
        assert "cannot be loaded" in reason and seconds < 5, "retries take minutes"
    assert len(accepted) == 1 and os.environ["HF_HUB_OFFLINE"] == "1", "ranks need not ask again"
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"*** WARNING: {address} does not answer (") and "somebody/bert and nyu-mll/glue must be" in line


def test_what_nobody_announced_is_asked_for_once_too(online, silent, capsys):
    address, accepted = silent
    online(address)
    for _ in range(2):
        refused(lambda: build_tokenizer(ModelConfig(name="somebody/bert"), ()))
    assert len(accepted) == 1 and capsys.readouterr().err.count("somebody/bert must be in the cache") == 1


def test_a_closed_port_and_a_name_service_that_hangs_are_no_answer(online, monkeypatch, capsys):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    online(f"http://127.0.0.1:{port}")
    assert "refused" in hub.ask_hub().why
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(3))
    online("http://hub.invalid")
    begin = time.monotonic()
    hub.expect_from_hub("somebody/bert")
    assert time.monotonic() - begin < 2 and "does not answer (no answer within" in capsys.readouterr().err


def test_a_hub_that_answers_is_left_to_its_library_and_a_run_without_the_hub_asks_nothing(online, capsys):
    listener = Listener()
    online(listener.uri)
    hub.expect_from_hub()
    hub.expect_from_hub("/a/folder/that/is/gone")
    assert listener.heard == []
    factory = huggingface_hub.utils._http._GLOBAL_CLIENT_FACTORY
    hub.expect_from_hub("somebody/bert")
    listener.close()
    assert huggingface_hub.utils._http._GLOBAL_CLIENT_FACTORY is factory and capsys.readouterr().err == ""


def test_only_what_lies_on_the_hub_is_asked_for(tmp_path):
    assert hub_names("tiny-roberta", [TASKS["demo"]]) == []
    assert hub_names("roberta-large", [TASKS["cola"], TASKS["sst2"]]) == ["roberta-large", "nyu-mll/glue"]
    assert hub_names(str(tmp_path), [TASKS["cola"]], str(tmp_path)) == []
