"""The doctor's checks on simulated machines: other cards, packages, disks, clocks, networks and hubs."""

import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version
from types import SimpleNamespace

import pytest

from mat_ds.doctor import cards, disks, launcher, network, packages
from mat_ds.doctor.network import check_hub
from mat_ds.doctor.rows import Status, collect
from mat_ds.ranks.world import World
from mat_ds.tasks.hub import ask_hub
from tests.support.launch import ROOT

ALONE, GIB = World(), 2**30
V100, RTX3090 = ("Tesla V100-SXM2-16GB", 16, (7, 0)), ("NVIDIA GeForce RTX 3090", 24, (8, 6))
CUDA_126, CUDA_130 = ["sm_50", "sm_60", "sm_70", "sm_80", "sm_86", "sm_90"], ["sm_75", "sm_80", "sm_86", "sm_90", "sm_120"]


def found(rows):
    return {row.name: row for row in rows}


@pytest.fixture
def machine(monkeypatch):
    """Simulates GPUs, each (name, GiB, compute capability), and a torch built for given architectures."""

    def install(*gpus, built_for=CUDA_126, free=1.0):
        fakes = {
            "is_available": lambda: bool(gpus),
            "device_count": lambda: len(gpus),
            "get_arch_list": lambda: built_for,
            "get_device_name": lambda i=0: gpus[i][0],
            "get_device_capability": lambda i=0: gpus[i][2],
            "get_device_properties": lambda i=0: SimpleNamespace(total_memory=gpus[i][1] * GIB),
            "mem_get_info": lambda i=0: (free * gpus[i][1] * GIB, gpus[i][1] * GIB),
        }
        for name, fake in fakes.items():
            monkeypatch.setattr(f"torch.cuda.{name}", fake)
        monkeypatch.setattr(cards, "multiply", lambda index, precision: "")

    return install


def test_on_a_v100_the_default_build_has_no_kernels_and_the_right_one_is_named(machine):
    machine(V100, built_for=CUDA_130)
    row = found(cards.check_cards(ALONE))["GPU 0"]
    assert row.status is Status.FAIL and "Tesla V100" in row.found and "16 GiB" in row.found and "7.0" in row.found
    assert "the index of the CUDA 12.6 build" in row.fix
    machine(V100, RTX3090)
    assert {row.status for row in cards.check_cards(ALONE)} == {Status.PASS}


def test_a_card_newer_than_the_build_needs_a_newer_build():
    assert not cards.has_kernels((12, 0), CUDA_126) and cards.has_kernels((12, 0), CUDA_130)
    assert cards.has_kernels((8, 9), CUDA_126), "code for 8.6 runs on 8.9"
    assert not cards.has_kernels((8, 0), ["sm_86"]) and cards.has_kernels((9, 0), ["sm_90a"])
    assert cards.has_kernels((10, 3), ["sm_80", "compute_90"]), "the driver compiles what is newer"


def test_more_ranks_than_gpus_and_memory_in_use_are_reported(machine):
    machine(RTX3090, RTX3090, free=0.5)
    rows = found(cards.check_cards(World(1, 4, 1, 4)))
    assert rows["GPUs for ranks"].status is Status.FAIL and "4 ranks on this node see 2" in rows["GPUs for ranks"].found
    assert "12 of 24 GiB" in rows["memory of GPU 1"].found and "memory of GPU 0" not in rows, "each rank looks at its own"


def test_bf16_is_only_for_cards_that_compute_in_it_whatever_torch_says(machine, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda *a, **k: True)
    machine(RTX3090, V100)
    rows = found(cards.check_precisions(ALONE))
    assert rows["precisions"].found.startswith("fp32, fp16 (") and "sdpa" in rows["precisions"].found
    assert "zero2_v100_fp16" in rows["--ds_config"].found and "bf16" not in rows["--ds_config"].found
    machine(RTX3090)
    rows = found(cards.check_precisions(ALONE))
    assert rows["precisions"].found == "fp32, fp16, bf16" and "zero2_rtx3090_bf16" in rows["--ds_config"].found


def test_a_precision_that_a_card_cannot_multiply_in_fails(machine, monkeypatch):
    machine(RTX3090)
    monkeypatch.setattr(cards, "multiply", lambda index, precision: "no kernel image" if precision == "fp16" else "")
    row = found(cards.check_precisions(ALONE))["precisions"]
    assert row.status is Status.FAIL and row.found == "fp16 on GPU 0: no kernel image"


def test_a_missing_compiler_is_a_drawback_that_names_what_it_costs(machine, monkeypatch):
    machine()
    monkeypatch.setattr("mat_ds.sampling.noise_kernel.try_noise", lambda device: (None, "no C compiler is installed"))
    row = found(cards.check_noise(ALONE))["noise"]
    assert row.status is Status.WARN and "(no C compiler is installed)" in row.found and "gcc" in row.fix
    monkeypatch.setattr("mat_ds.sampling.noise_kernel.try_noise", lambda device: (print, ""))
    assert found(cards.check_noise(ALONE))["noise"].status is Status.PASS


def test_no_gpu_is_no_fault_but_a_gpu_that_torch_cannot_use_is(machine, monkeypatch):
    machine()
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(cards.Path, "glob", lambda self, pattern: iter([]))
    assert found(cards.check_cards(ALONE))["GPUs"].status is Status.PASS
    monkeypatch.setattr(cards.Path, "glob", lambda self, pattern: iter(["/dev/nvidia0"]))
    monkeypatch.setattr("torch.version.cuda", None)
    assert "build without CUDA" in found(cards.check_cards(ALONE))["GPUs"].found
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    assert found(cards.check_cards(ALONE))["GPUs"].status is Status.PASS


def test_versions_outside_the_ranges_and_packages_that_do_not_import_are_named(monkeypatch):
    wrong = {"deepspeed": "0.18.2", "pydantic": None}
    monkeypatch.setattr(packages, "installed", lambda name: wrong[name] if name in wrong else version(name))
    monkeypatch.setattr(packages, "import_failure", lambda name: "ImportError: libfoo.so" if name == "transformers" else "")
    rows = found(packages.check_packages())
    failed = {name: row.found for name, row in rows.items() if row.status is Status.FAIL}
    assert set(failed) == {"deepspeed", "pydantic", "transformers"}
    assert failed["deepspeed"] == "0.18.2 is outside <0.20,>=0.19.8" and "libfoo.so" in failed["transformers"]
    assert packages.versions()["deepspeed"] == "0.18.2"


def test_the_table_is_printed_even_if_torch_cannot_be_imported(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so.13: cannot open shared object file')\n")
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "mat_ds.cli", "doctor", "task=cola"],
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1 and "Traceback" not in done.stdout + done.stderr
    assert "FAIL  torch" in done.stdout and "libcudart.so.13" in done.stdout
    assert "pass  shared memory" in done.stdout and "pass  hub" in done.stdout, "what needs no torch is looked at all the same"


def test_disks_are_compared_with_what_checkpoints_need(tmp_path, monkeypatch):
    large = 355_000_000
    for free, status in ((40, Status.PASS), (10, Status.WARN), (3, Status.FAIL)):
        monkeypatch.setattr(disks, "free_bytes", lambda folder, free=free: free * GIB)
        row = found(disks.check_disks(tmp_path, large, 4, ALONE))["output_dir"]
        assert row.status is status and "4 checkpoints of up to 5.3 GiB" in row.found
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_a_folder_that_cannot_be_written_fails(tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    row = found(disks.check_disks(tmp_path, None, 2, ALONE))["output_dir"]
    assert row.status is Status.FAIL and "No space left" in row.found and not list(tmp_path.iterdir())


def test_a_host_name_that_resolves_to_this_host_only_fails_for_several_nodes(monkeypatch):
    monkeypatch.setattr(network, "own_address", lambda: "127.0.1.1")
    monkeypatch.setattr(network, "interfaces", lambda: {"eth0": "10.0.0.1", "ib0": "10.1.0.1"})
    for name in network.CHOICES:
        monkeypatch.delenv(name, raising=False)
    row = found(network.check_network(World(0, 4, 0, 2)))["host name"]
    assert row.status is Status.WARN and row.fix == "export GLOO_SOCKET_IFNAME=eth0 NCCL_SOCKET_IFNAME=eth0"
    assert found(network.check_network(World(0, 2, 0, 2)))["host name"].status is Status.PASS
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eht0")
    rows = found(network.check_network(World(0, 4, 0, 2)))
    assert rows["GLOO_SOCKET_IFNAME"].status is Status.FAIL and rows["host name"].status is Status.PASS


def test_a_host_without_an_address_of_its_name_needs_an_interface_to_be_chosen_once(monkeypatch):
    def unknown():
        raise OSError(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(network, "own_address", unknown)
    monkeypatch.setattr(network, "interfaces", lambda: {"eth0": "10.0.0.1"})
    for name in network.CHOICES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "eth0")
    assert found(network.check_network(World(0, 4, 0, 2)))["host name"].status is Status.WARN
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth0")
    assert found(network.check_network(World(0, 4, 0, 2)))["host name"].status is Status.PASS


def test_only_an_interface_that_is_not_in_use_is_suggested(monkeypatch):
    for name in network.CHOICES:
        monkeypatch.delenv(name, raising=False)
    two = {"eth0": "10.0.0.1", "ib0": "10.1.0.1"}
    assert network.other_choice(two) == "export GLOO_SOCKET_IFNAME=eth0 NCCL_SOCKET_IFNAME=eth0"
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth0")
    assert network.other_choice(two) == "export GLOO_SOCKET_IFNAME=ib0 NCCL_SOCKET_IFNAME=ib0"
    assert network.other_choice({"eth0": "10.0.0.1"}) == ""


def test_processes_without_a_rank_and_too_many_threads_are_reported(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    rows = found(launcher.check_launch(ALONE))
    assert rows["SLURM_STEP_NUM_TASKS"].status is Status.FAIL and "JOB_ID=17" in rows["slurm"].found
    monkeypatch.setenv("OMP_NUM_THREADS", "4096")
    row = found(launcher.check_limits(World(0, 2, 0, 2)))["threads"]
    assert row.status is Status.WARN and row.fix.startswith("export OMP_NUM_THREADS=")


def test_the_hub_is_asked_at_its_own_address_once_and_not_at_all_offline(monkeypatch):
    asked = []

    class Answer(BaseHTTPRequestHandler):
        def do_HEAD(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert ask_hub().reached and len(asked) == 1
    server.shutdown()
    server.server_close()
    (row,) = check_hub(ask_hub())
    assert row.status is Status.WARN and "mat-ds prepare" in row.fix and "127.0.0.1" in row.found
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (row,) = check_hub(ask_hub())
    assert row.status is Status.PASS and len(asked) == 1


def test_a_check_that_raises_is_a_row_and_does_not_end_the_doctor():
    def check_something_odd():
        raise KeyError("a surprise")
        yield

    (row,) = collect("group", check_something_odd)
    assert (row.group, row.name, row.status) == ("group", "something odd", Status.WARN) and "a surprise" in row.found
