"""The rules of the package: what may import what, which names may repeat, and how long a file may be."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "mat_ds"
SOURCES = sorted(PACKAGE.rglob("*.py"))


# A room imports only from rooms before it. The four in APART never import each other.
ROOMS = (
    "errors", "storage", "config", "terminal", "ranks", "tracking", "sampling", "methods", "tasks", "models", "runs",
    "artifacts", "engine", "registry", "evaluation", "sweeps", "doctor", "planning", "reports", "training", "api", "commands",
    "cli",
)  # fmt: skip
APART = {"doctor", "planning", "sweeps", "training"}


def imported(path):
    """The modules that a file imports, at the top or inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            # What is stored with a registered model has no package above it.
            inside = path.parent if path.parent.name == "served_model" and node.level == 1 else None
            assert inside or not node.level, f"{path}: a relative import"
            package = f"{'.'.join(inside.relative_to(ROOT).parts)}." if inside else ""
            yield from (f"{package}{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_a_room_imports_only_rooms_before_it():
    assert {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in SOURCES} == {*ROOMS, "__init__"}
    arrows = [
        (str(path.relative_to(PACKAGE)), path.relative_to(PACKAGE).parts[0].removesuffix(".py"), name.split(".")[1])
        for path in SOURCES
        for name in imported(path)
        if name.startswith("mat_ds.")
    ]
    assert not [arrow for arrow in arrows if arrow[1] in ROOMS and ROOMS.index(arrow[2]) > ROOMS.index(arrow[1])]
    assert not [arrow for arrow in arrows if arrow[1] != arrow[2] and {*arrow[1:]} <= APART]


def test_no_modules_import_each_other_in_a_circle():
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in SOURCES}
    known = {
        name: {found if found in names else found.rpartition(".")[0] for found in imported(path)} & (names.keys() - {name})
        for name, path in names.items()
    }
    while done := {name for name, others in known.items() if not others & known.keys()}:
        known = {name: others for name, others in known.items() if name not in done}
    assert not known


def importers(name):
    pattern = re.compile(rf"^\s*(import|from) {name}\b", re.M)
    return {str(path.relative_to(PACKAGE)) for path in SOURCES if pattern.search(path.read_text())}


def test_only_the_engine_knows_deepspeed():
    assert importers("deepspeed") and all(path.startswith("engine/") for path in importers("deepspeed"))


def test_only_shards_py_reads_how_deepspeed_stores_parameters():
    """The rest uses its functions masters, whole and refresh. The loss scale is in another module."""
    kept = re.compile(
        r"\bds_(id|tensor|numel|shape|status)\b|GatheredParameters|\w*(fp16|bit16|fp32)_\w*(groups|partition)\w*|_hp_mapping"
    )
    for path in SOURCES:
        place = str(path.relative_to(PACKAGE))
        code = re.sub(r'""".*?"""', "", path.read_text(), flags=re.S)
        if place != "engine/shards.py":
            assert not kept.search(code), (place, kept.search(code))
        if place in ("engine/checkpoint.py", "engine/state.py", "engine/export.py") or not place.startswith("engine/"):
            assert not re.search(r"\bds\.optimizer\b|\.zero_optimization(_stage)?\(|^(import|from) deepspeed", code, re.M), (
                place
            )


def test_only_tracking_and_the_registry_know_mlflow_and_only_lora_knows_peft():
    assert all(path.startswith(("tracking/", "registry/")) for path in importers("mlflow"))
    assert importers("peft") <= {"models/lora.py"}


def test_only_tasks_kinds_knows_losses_outputs_and_labels_of_a_task():
    names = {"classification", "regression", "single_label_classification", "text-classification", "SEQ_CLS"}
    for path in SOURCES:
        place = str(path.relative_to(PACKAGE))
        if place.startswith(("tasks/kinds/", "registry/served_model/")):  # the latter runs without mat_ds
            continue
        assert not re.search("AutoModelFor|SEQ_CLS", path.read_text()), place
        nodes = list(ast.walk(ast.parse(path.read_text())))
        called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
        for node in nodes:
            if isinstance(node, ast.Attribute) and id(node) not in called:
                assert node.attr not in ("logits", "regression"), (place, node.lineno)
            elif isinstance(node, ast.Constant) and place != "tasks/spec.py":  # where a task names its kind
                assert node.value not in names, (place, node.lineno)
        kinds = {name.split(".")[3] for name in imported(path) if name.startswith("mat_ds.tasks.kinds.")}
        assert kinds <= {"base", "forms", "outputs", "KINDS", "kind_of", "kind_of_model"}, place


def test_a_method_names_no_rank_dtype_or_device():
    for path in (PACKAGE / "methods").glob("*.py"):
        if path.stem not in ("base", "batch", "ops", "__init__"):
            code = re.sub(r'""".*?"""', "", path.read_text(), flags=re.S)
            for word in ("deepspeed", "rank", "dtype", "device", "cuda", "float16", "bfloat16", "distributed"):
                assert not re.search(rf"\b{word}\b", code), (path.name, word)


COLLECTIVES = re.compile(
    r"(all_|i)?(reduce|gather|scatter|send|recv|broadcast|to_all)\w*|(monitored_)?barrier|batch_isend_irecv|get_(rank|world_size)"
)


def test_only_the_ranks_room_calls_collectives():
    for path in SOURCES:
        place = str(path.relative_to(PACKAGE))
        if place.startswith("ranks/") or place == "doctor/links.py":  # it measures torch's own collectives
            continue
        nodes = list(ast.walk(ast.parse(path.read_text())))
        for node in nodes:
            if isinstance(node, ast.ImportFrom) and node.module in ("torch.distributed", "deepspeed.comm"):
                assert not [alias.name for alias in node.names if COLLECTIVES.fullmatch(alias.name)], (place, node.lineno)
            if isinstance(node, ast.Attribute) and COLLECTIVES.fullmatch(node.attr):
                assert ast.unparse(node.value) not in ("dist", "distributed", "torch.distributed", "comm"), (place, node.lineno)


def test_nothing_checks_the_class_of_a_method():
    for path in SOURCES:
        if path.is_relative_to(PACKAGE / "methods"):
            continue
        known = {name.rpartition(".")[2] for name in imported(path) if name.startswith("mat_ds.methods")}
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("isinstance", "issubclass"):
                classes = {part.id for part in ast.walk(node.args[1]) if isinstance(part, ast.Name)}
                classes |= {part.attr for part in ast.walk(node.args[1]) if isinstance(part, ast.Attribute)}
                assert not classes & known and "Settings" not in classes, (path, node.lineno, "let the method say it")


def test_no_method_is_named_outside_methods():
    for path in SOURCES:
        place = str(path.relative_to(PACKAGE))
        if not place.startswith("methods/") and place != "reports/labels.py":  # the names of methods in tables
            assert not re.search(r"r4f|spectral", path.read_text(), re.I), place


def test_no_file_is_long_or_named_utils():
    for path in (*SOURCES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "launch").glob("*.py")):
        assert len(path.read_text().splitlines()) <= 250, path
        assert "utils" not in path.stem, path


def test_launch_scripts_are_short():
    for path in (ROOT / "launch").glob("*.py"):
        assert len(path.read_text().splitlines()) <= 15, path


# Names that several modules define on purpose: each has the same role in its module.
SHARED = {
    "main": "what a module does that is run as a program, as each in `mat_ds.commands` is",
    "parse": "the command line of one command, in `mat_ds.commands`",
    "_load_pyfunc": "what MLflow calls, in each file of `mat_ds.registry.served_model` that answers for models",
    "add_numbers": "a kernel of `mat_ds.sampling.noise_kernel`, in Triton and in C",
    "advance": "a kernel of `mat_ds.sampling.step_kernel`, in Triton and in C",
    "Engine": "the interface that methods are written against, and the class that implements it",
}


def test_one_word_means_one_thing():
    places = {}
    for path in SOURCES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                places.setdefault(node.name, []).append(str(path.relative_to(PACKAGE)))
    twice = {name: found for name, found in places.items() if len(found) > 1}
    assert not {name: found for name, found in twice.items() if name not in SHARED}
    assert twice.keys() >= SHARED.keys(), "what is shared no more"
    assert all(path.startswith("commands/") for path in places["parse"])
    assert set(places["Engine"]) == {"methods/base.py", "engine/engine.py"}


def test_what_is_stored_with_a_registered_model_imports_nothing_of_mat_ds_but_itself():
    own = "mat_ds.registry.served_model."
    files = [path for path in SOURCES if path.parent.name == "served_model"]
    strange = [(path.name, name) for path in files for name in imported(path) if name.startswith("mat_ds.") and own not in name]
    assert files and not strange
