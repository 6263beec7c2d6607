"""The guard of these tests notices what it should."""

import subprocess
import sys

from tests.hostile.conftest import GUARD, snapshot


def test_the_guard_records_addresses(tmp_path):
    code = "import socket\ntry:\n socket.create_connection(('127.0.0.1', 9))\nexcept OSError: print('refused')"
    reached = tmp_path / "reached.txt"
    env = {"PYTHONPATH": str(GUARD), "REACHED": str(reached)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.stdout == "refused\n" and "127.0.0.1" in reached.read_text()


def test_a_snapshot_shows_new_and_changed_files_and_links(tmp_path):
    (tmp_path / "a").write_text("1")
    seen = [snapshot(tmp_path)]
    (tmp_path / "a").write_text("2")
    seen.append(snapshot(tmp_path))
    (tmp_path / "b").symlink_to("/nowhere")
    seen.append(snapshot(tmp_path))
    assert len({str(one) for one in seen}) == 3


def test_a_command_runs_in_the_surroundings(surroundings):
    assert "mat-ds" in surroundings.run("--help", code=0).stdout
