"""A run whose directory another job has taken: all ranks stop with exit code 4 and write nothing more there."""

import time

from mat_ds.errors import ExitCode
from mat_ds.storage.events import read_events
from mat_ds.storage.lock import LOCK, RunLock
from mat_ds.storage.rundir import RunDirectory
from tests.support.launch import start_ranks
from tests.workers.small_run import OPTIONS

STEPS = 2000


def wait_until(true, seconds=200):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_all_ranks_of_a_displaced_run_stop_with_its_code_and_leave_the_directory_alone(tmp_path):
    # A run that saves notices it at the save; one that does not, when it renews its lease.
    for name, every in (("saves", "train.save_every=1"), ("does not save", f"train.save_every={STEPS}")):
        run, log, other = RunDirectory(tmp_path / name), tmp_path / f"{name}.log", RunLock()
        ranks = start_ranks(
            2,
            "--ds_config",
            "ds_configs/zero2.json",
            *OPTIONS,
            f"train.max_steps={STEPS}",
            every,
            "train.eval_per_epoch=1",
            f"output_dir={run.path}",
            log=log,
        )
        try:
            wait_until(lambda run=run: len(read_events(run.events)) > 4)
            (lease,) = (run.path / LOCK).iterdir()
            lease.unlink()  # as another job does after the lease was not renewed
            other.acquire(run.path)
            taken = time.time()
            codes = [rank.wait(60) for rank in ranks]
        finally:
            for rank in ranks:
                rank.kill()
        said = log.read_text()
        assert codes == [ExitCode.DISPLACED] * 2, said
        assert said.count("stopped:") == 1 and "no longer belongs to this job" in said and "Traceback" not in said
        other.check()
        assert not run.interrupted.exists() and not [e for e in read_events(run.events) if e["event"] == "end"]
        late = {path.name: path.stat().st_ctime - taken for path in run.path.rglob("*") if path.is_file()}
        # It may complete the current step, and those before the next renewal of the lease.
        assert all(seconds < 15 for file, seconds in late.items() if file not in (other.token, "train.log")), late
        other.release()
