"""Surroundings for hostile files: no network, secrets in the environment, and a watch on everything outside the run."""

import hashlib
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.launch import ROOT, environment

CANARY = "c4n4ry-7d1f0e"
SECRETS = ("HF_TOKEN", "MLFLOW_TRACKING_TOKEN", "AWS_SECRET_ACCESS_KEY", "SOME_PASSWORD")
GUARD = Path(__file__).parent / "guard"


def snapshot(folder):
    """Every path below a folder with its content; links are not followed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        held = (
            os.readlink(path) if path.is_symlink() else hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        )
        found[str(path.relative_to(folder))] = held
    return found


@dataclass
class Surroundings:
    """A folder that commands may change, and one that they must not change.

    Attributes:
        inside: the working directory of the commands.
        outside: what must not change.
        reached: addresses that a command tried to reach.
    """

    inside: Path
    outside: Path
    reached: Path
    outputs: list = field(default_factory=list)

    def run(self, *arguments, stdin="", code=None, module="mat_ds.cli", timeout=300, **variables):
        """Runs `mat-ds arguments`, checks that there is no traceback and the exit code, and returns the finished process."""
        secrets = dict.fromkeys(SECRETS, CANARY)
        env = environment(REACHED=str(self.reached), **secrets) | variables
        env["PYTHONPATH"] = f"{GUARD}:{ROOT}"
        command = [sys.executable, "-c", f"import sys; from {module} import main; sys.exit(main())", *map(str, arguments)]
        done = subprocess.run(command, cwd=self.inside, env=env, input=stdin, capture_output=True, text=True, timeout=timeout)
        self.outputs.append(done.stdout + done.stderr)
        assert "Traceback" not in done.stderr + done.stdout, done.stderr[-3000:]
        assert code is None or done.returncode == code, (done.returncode, done.stdout[-2000:], done.stderr[-3000:])
        return done


@pytest.fixture
def surroundings(tmp_path):
    """At the end checks that nothing outside has changed, no address was reached, and no secret is in an output or file."""
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (outside / "precious.txt").write_text("nobody else's business")
    place = Surroundings(inside, outside, tmp_path / "reached.txt")
    before = snapshot(outside)
    yield place
    assert snapshot(outside) == before, "something outside the working directory was changed"
    assert not place.reached.exists(), place.reached.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inside", "outside"]
    assert not any(CANARY in output for output in place.outputs), "a secret was printed"
    holding = [path for path in inside.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]
    assert not holding, f"a secret was written: {holding}"
