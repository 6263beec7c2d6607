"""What a run writes down of versions does not depend on how the package came to be there."""

import subprocess
import sys

from mat_ds.config.versions import ABSENT, version_of
from tests.support.launch import ROOT


def test_a_checkout_that_is_not_installed_and_a_package_that_is_missing_are_told_and_fail_nothing(tmp_path):
    code = (
        "import sys; sys.path[:0] = [sys.argv[1]]; import importlib.metadata as m\n"
        "def gone(name): raise m.PackageNotFoundError(name)\n"
        "m.version = gone\n"
        "from mat_ds.config.versions import version_of; print(version_of('mat_ds'), version_of('mlflow'))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(ROOT)], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.split(" ", 1) == [version_of("mat_ds"), f"{ABSENT}\n"], done.stderr
