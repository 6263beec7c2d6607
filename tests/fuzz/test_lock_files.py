"""Anything in place of a lock counts as the lock of an unknown job until it has not changed for a lease. There is no traceback,
and nothing but the lock is changed."""

import json
import os
import socket
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mat_ds.errors import UserError
from mat_ds.storage import leases, lock
from mat_ds.storage.lock import LOCK, RunLock, holder_of
from mat_ds.storage.owner import Owner, sealed

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = list(json.loads(Owner.me().as_text()))
RECORDS = st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=8), VALUES, max_size=9)


def odd(data, inside):
    """Tries to lock a folder with `data` in place of its lock, or of a lease in it; then again after a lease."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        where = folder / LOCK / "lease" if inside else folder / LOCK
        where.parent.mkdir(exist_ok=True)
        where.write_bytes(data)
        with pytest.raises(UserError) as told:
            RunLock().acquire(folder)
        assert (str(folder / LOCK) in str(told.value) and str(told.value).isprintable()) or "\n" in str(told.value)
        assert holder_of(folder) and where.read_bytes() == data
        gone_by(folder)


def gone_by(folder):
    """Checks that the folder can be locked after a lease."""
    before, leases.LEASE_SECONDS = leases.LEASE_SECONDS, 0.0
    try:
        mine = RunLock()
        mine.acquire(folder)
        mine.check()
        mine.release()
        assert not (folder / LOCK).exists()
    finally:
        leases.LEASE_SECONDS = before


@settings(max_examples=60, deadline=2000)
@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_in_place_of_a_lock(data, inside):
    odd(data, inside)


@settings(max_examples=100, deadline=2000)
@given(RECORDS, st.booleans())
def test_any_record_in_place_of_a_lock(record, inside):
    me = json.loads(Owner.me().as_text())
    me.pop("crc32")
    # Of a process on another machine, since one on this machine would be found to be gone.
    odd(sealed({**me, **record, "place": "elsewhere"}), inside)
    odd(sealed(record), inside)
    odd(json.dumps(record).encode(), inside)


@settings(max_examples=50, deadline=2000)
@given(st.integers(min_value=0), st.integers(0, 7))
def test_a_lease_with_a_changed_bit_still_counts_as_held(place, bit):
    """The change might otherwise name a process that has provably ended."""
    text = bytearray(Owner.me().as_text())
    text[place % len(text)] ^= 1 << bit
    odd(bytes(text), True)


def test_a_lease_with_any_changed_bit_or_missing_or_added_byte_is_not_valid():
    text = Owner.me().as_text()
    flipped = [text[:i] + bytes([text[i] ^ 1 << bit]) + text[i + 1 :] for i in range(len(text)) for bit in range(8)]
    cut = [text[:i] for i in range(len(text))] + [text[:i] + text[i + 1 :] for i in range(len(text))]
    added = [text[:i] + byte + text[i:] for i in range(len(text) + 1) for byte in (b" ", b"0", b"\x00")]
    assert Owner.read(text) and not any(Owner.read(other) for other in (*flipped, *cut, *added) if other != text)


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("kind", ["FIFO", "dangling link", "link to a folder", "link to a file", "socket", "deep JSON", "huge"])
def test_any_kind_of_file_in_place_of_a_lock(kind, inside, tmp_path):
    folder, other = tmp_path / "run", tmp_path / "other"
    where = folder / LOCK / "lease" if inside else folder / LOCK
    where.parent.mkdir(parents=True)
    other.mkdir()
    (other / "precious").write_text("precious")
    if kind == "FIFO":
        os.mkfifo(where)
    elif kind.endswith(("link", "folder", "file")):
        where.symlink_to(
            {"d": "nowhere", "f": other / "precious"}.get(kind[0], other / "precious" if "file" in kind else other)
        )
    elif kind == "socket":
        before = os.getcwd()
        os.chdir(where.parent)  # the names of sockets must be short
        socket.socket(socket.AF_UNIX).bind(where.name)
        os.chdir(before)
    else:
        where.write_text("[" * 100_000 if kind == "deep JSON" else "x" * 10**7)
    with pytest.raises(UserError, match="another job uses it"):
        RunLock().acquire(folder)
    gone_by(folder)
    assert (other / "precious").read_text() == "precious" and [path.name for path in other.iterdir()] == ["precious"]


def test_a_folder_in_the_lock_is_moved_aside_and_not_deleted(tmp_path):
    (tmp_path / LOCK / "folder" / "below").mkdir(parents=True)
    with pytest.raises(UserError, match="another job uses it"):
        RunLock().acquire(tmp_path)
    gone_by(tmp_path)
    assert list(tmp_path.glob(f".{LOCK}.*.aside/below"))


def test_a_file_in_place_of_a_lock_ends_when_it_has_not_changed_for_a_lease(tmp_path, monkeypatch):
    for module in (leases, lock):
        monkeypatch.setattr(module, "LEASE_SECONDS", 0.4)
        monkeypatch.setattr(module, "LOOK", 0.05)
    (tmp_path / LOCK).write_text("{")
    mine, waits = RunLock(), 0
    while not mine.take(tmp_path):
        waits += 1
        time.sleep(0.05)
    assert waits >= 4
    mine.release()
