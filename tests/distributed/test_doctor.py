"""The doctor on several ranks: rank 0 prints one table with every fault of any rank, and all ranks end with the same code."""

import json
import re

import pytest

from mat_ds.errors import ExitCode
from tests.support.launch import free_port, run_cli, run_ranks
from tests.workers.doctoring import WRONG_ON_RANK_1

pytestmark = pytest.mark.dist


@pytest.fixture(scope="module")
def visits():
    """For each run of the doctor, on rank 0: exit code, whether the self-test finished, and the rows."""
    ports = [str(free_port()) for _ in WRONG_ON_RANK_1]
    report = run_ranks("tests.workers.doctoring", 2, *ports)
    return {name: {**visit, "rows": json.loads(visit["printed"])["rows"]} for name, visit in report.items()}


def failures(visit):
    return {(row["group"], row["name"]): row for row in visit["rows"] if row["status"] == "fail"}


def told(visit):
    """The texts of all failures, by name; several may have the same name."""
    return " | ".join(row["found"] for row in visit["rows"] if row["status"] == "fail")


def test_two_healthy_ranks_pass_with_exact_sums_and_a_measured_link(visits):
    healthy = visits["healthy"]
    rows = {row["name"]: row for row in healthy["rows"] if row["group"] == "ranks"}
    assert healthy["code"] == ExitCode.OK and healthy["ended"] and not failures(healthy)
    assert set(rows) == {"ranks", "clocks", "sums", "latency", "bandwidth", "links in a node"}
    assert rows["sums"]["found"] == "of all ranks are exact" and re.search(r"\d [MG]B/s$", rows["links in a node"]["found"])
    assert {tuple(row["ranks"]) for row in healthy["rows"] if row["group"] == "packages"} == {(0, 1)}


def test_different_versions_of_a_package_are_reported(visits):
    found = failures(visits["version"])
    assert visits["version"]["code"] == ExitCode.FAILED and set(found) == {("ranks", "transformers")}
    assert "5.99.0 on rank 1" in found["ranks", "transformers"]["found"]


def test_a_clock_that_differs_is_a_warning(visits):
    (row,) = (row for row in visits["clock"]["rows"] if row["name"] == "clocks")
    assert row["status"] == "warn" and "rank 1" in row["found"] and "+100 s" in row["found"]
    assert visits["clock"]["code"] == ExitCode.OK


def test_a_rank_whose_part_of_a_sum_is_wrong_is_named(visits):
    (row,) = failures(visits["sum"]).values()
    assert row["name"] == "sums" and "fp32 (rank 1)" in row["found"] and "rank 0" not in row["found"]


def test_a_rank_that_stops_or_hangs_in_the_self_test_is_named_in_the_table(visits):
    stops, hangs = told(visits["stops"]), told(visits["hangs"])
    assert "rank 1" in stops and "stopped at a sum in fp32 (RuntimeError: no kernel image is available)" in stops
    assert "rank 1 (" in hangs and "stopped at a sum in fp32 (no end within 12 s)" in hangs
    assert visits["stops"]["code"] == visits["hangs"]["code"] == ExitCode.FAILED


def test_the_table_is_printed_even_when_the_launcher_ends_all_ranks_because_of_one(visits):
    assert "rank 1 (" in told(visits["killed"]) and visits["killed"]["code"] == ExitCode.FAILED


def test_a_rank_that_does_not_join_is_named_in_time(visits):
    found = failures(visits["absent"])
    assert set(found) == {("ranks", "rank 1")} and "did not answer within 2 s" in found["ranks", "rank 1"]["found"]
    assert [row["found"] for row in visits["absent"]["rows"] if row["name"] == "self-test"] == ["was not run"]


def test_the_launcher_gets_one_table_and_the_exit_code():
    done = run_cli("--ds_config", "ds_configs/zero2_v100_fp16.json", "task=demo", ranks=2, script="doctor", launcher=True)
    assert done.returncode == ExitCode.FAILED, done.stderr[-3000:]
    assert done.stdout.count("mat-ds doctor: ") == 1 and "FAIL  ds_config fp16.enabled" in done.stdout
    assert "pass  sums" in done.stdout and "\033[" not in done.stdout and "Traceback" not in done.stdout + done.stderr
    assert "\nFAIL  1 failed (ds_config fp16.enabled)" in done.stdout


def test_one_process_needs_no_launcher():
    done = run_cli("task=demo", script="doctor")
    assert done.returncode == ExitCode.OK, done.stdout + done.stderr
    assert done.stdout.startswith("mat-ds doctor: ") and "pass  data" in done.stdout and "self-test" not in done.stdout
    assert run_cli("demo", script="doctor").returncode == ExitCode.USER_ERROR
