"""The versions that a run records, with and without an installed package."""

import subprocess
import sys

from mat_ds.config.versions import ABSENT, version_of
from tests.support.launch import ROOT


def test_versions_are_recorded_for_a_checkout_that_is_not_installed_and_without_optional_packages(tmp_path):
    code = (
        "import sys; sys.path[:0] = [sys.argv[1]]; import importlib.metadata as m\n"
        "def gone(name): raise m.PackageNotFoundError(name)\n"
        "m.version = gone\n"
        "from mat_ds.config.versions import version_of; print(version_of('mat_ds'), version_of('mlflow'))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(ROOT)], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.split(" ", 1) == [version_of("mat_ds"), f"{ABSENT}\n"], done.stderr
