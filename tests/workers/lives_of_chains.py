"""Lives of a run whose chains are apart between meetings, and of runs whose chains send their moves in fewer bytes."""

import json
import shutil
import signal

import torch
from safetensors.torch import load_file

from mat_ds.artifacts.conversion import whole_weights
from mat_ds.artifacts.members import members_of
from mat_ds.engine.engine import Engine
from mat_ds.errors import ExitCode
from mat_ds.storage.checkpoints import name_of
from tests.workers.living import RANK, killed, live, saved, signalled
from tests.workers.small_run import OPTIONS, same, steps

LOCAL = (
    *(option for option in OPTIONS if not option.startswith("method.")), "method.name=vanilla", "method.chains=per_rank",
    "train.local_steps=3", "train.eval_per_epoch=3", "train.export=last", "train.snapshots=4",
    "train.snapshots_of=chains",
)  # fmt: skip


def local(folder, whole, report):
    """Local SGD that is stopped between two meetings goes on as if it had not been. Evaluations wait for meetings, of which the
    end of the run is one, also where it has become nearer."""
    alone, cut, short = folder / "local", folder / "local-cut", folder / "local-short"
    codes = [live(alone, options=LOCAL)]
    for step in (4, 5):  # before the chains meet, and in the step at whose end they do
        with signalled(Engine, "update", step, signal.SIGTERM, (0,)):
            codes.append(live(cut, options=LOCAL))
        if RANK == 0 and step == 4:
            shutil.copytree(cut, short)
    codes += [live(cut, options=LOCAL), live(short, "train.max_steps=5", "train.snapshots=2", options=LOCAL)]
    again = codes == [ExitCode.OK, ExitCode.REQUEUE, ExitCode.REQUEUE, ExitCode.OK, ExitCode.OK]
    report["local"] = again and same(cut, alone)
    found = ([folder / "model.safetensors" for folder in members_of(run / "model", "")] for run in (alone, cut))
    members, others = ([*map(load_file, files)] for files in found)
    kept = load_file(alone / "model" / "model.safetensors")
    report["members"] = len(members) == 4 and all(
        torch.equal(one[name], other[name]) for one, other in zip(members, others, strict=True) for name in kept
    )
    report["a member a chain"] = all(torch.equal((members[2][name] + members[3][name]) / 2, kept[name]) for name in kept)
    weights = [member["classifier.dense.weight"] for member in members]
    report["apart"] = not torch.equal(*weights[:2]) and not torch.equal(*weights[2:])
    report["mixture"] = json.loads((alone / "results.json").read_text())["mixture"]["members"] == [6, 6, 8, 8]
    evaluated = [[record["step"] for record in steps(run) if record["event"] == "evaluation"] for run in (alone, cut, short)]
    report["evaluations wait"] = evaluated == [[3, 6, 8], [3, 6, 8], [3, 5]]
    model = load_file(short / "model" / "model.safetensors")
    mean = whole_weights(cut / "checkpoints" / name_of(5), "theta", {name: value.shape for name, value in model.items()})
    report["ends in a meeting"] = all(torch.equal(value, model[name]) for name, value in mean.items()) and len(mean) > 10


def rounded(folder, whole, report):
    """MAT whose chains send rounded moves every other step, killed inside an outer step after a checkpoint at which they were
    apart, ends like one that was left alone: what had been left out is in the checkpoint. Its members are the chains, whose
    mean the model is but for what was left out."""
    for how in ("int8", "bf16"):
        asked = (*OPTIONS, "method.chains=per_rank", f"method.chains_compression={how}", "train.local_steps=2")
        asked += ("train.export=last", "train.snapshots=2", "train.snapshots_of=chains", "train.eval_per_epoch=0")
        alone, cut = folder / how, folder / f"{how}-cut"
        code = live(alone, options=asked)
        died = killed(cut, 4, options=asked) and saved(cut) == [name_of(3)]
        report[f"killed, {how}"] = code == 0 and died and live(cut, options=asked) == 0 and same(cut, alone)
        one, other = (load_file(file / "model.safetensors") for file in members_of(alone / "model", ""))
        kept = load_file(alone / "model" / "model.safetensors")
        apart = max(float((one[name] - other[name]).abs().max()) for name in kept)
        left = max(float(((one[name] + other[name]) / 2 - kept[name]).abs().max()) for name in kept)
        report[f"members, {how}"] = 0 < left < apart / 50
