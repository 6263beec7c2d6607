"""MLflow's model registry: registers finished runs, promotes versions by score, lists and downloads them."""

from __future__ import annotations

import atexit
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

import mlflow
from mlflow.entities import LoggedModelOutput, LoggedModelStatus, Metric
from mlflow.models import Model

from mat_ds.artifacts.described import Description
from mat_ds.artifacts.evaluated import evaluations_of
from mat_ds.artifacts.finished import Finished, read_finished
from mat_ds.artifacts.members import listed
from mat_ds.artifacts.robustness import robustness_text
from mat_ds.config.names import RULE, is_name
from mat_ds.errors import Problem, UserError, raise_if_any
from mat_ds.registry.connection import client_of, errors_told, registry_uri, tracking_uri
from mat_ds.storage.events import read_events
from mat_ds.storage.own_files import file_problems, foreign_problems
from mat_ds.tracking.content import milliseconds
from mat_ds.tracking.description import DIGEST, dataset_name
from mat_ds.tracking.destination import absolute_uri, check_uri, client_uri, default_uri
from mat_ds.tracking.mirrored import MIRRORED, read_mirrored, read_tracking
from mat_ds.tracking.names import event_metrics
from mat_ds.tracking.replica import Replica, pages
from mat_ds.tracking.trust import destination
from mat_ds.tracking.variables import REGISTRY_URI, TRACKING_URI, named

PREFIX = "mat_ds."
SCORE, DEV = f"{PREFIX}score", f"{PREFIX}dev_sha256"


@dataclass(frozen=True)
class Registered:
    """A version of a registered model, with its aliases and the tags written by mat_ds."""

    name: str
    version: int
    aliases: list[str]
    tags: dict[str, str]

    @property
    def score(self) -> float | None:
        """Its score on the dev set; None if mat_ds did not register it."""
        return float(self.tags[SCORE]) if SCORE in self.tags else None


def register(run: Path, name: str, uri: str | None = None, registry: str | None = None) -> tuple[int, str]:
    """Registers the model of a finished run as a new, self-contained version of `name`.

    Args:
        run: the run directory.
        name: of the registered model; created if it does not exist.
        uri: where the run and its model are stored; None: the run's own address, else MLFLOW_TRACKING_URI, else the SQLite
            file beside the run.
        registry: where the version is registered; None: MLFLOW_REGISTRY_URI, else the same.

    Returns:
        The version, and the address of the registry.

    Raises:
        UserError: if the run has not finished, or the registry cannot be reached.
    """
    from mat_ds.registry.flavor import effective_length, save_flavor, whole_model  # imported late: PEFT takes seconds

    if not is_name(name):
        raise UserError(Problem("NAME", name, "is not allowed as the name of a registered model", f"use {RULE}"))
    check_uri("--uri", uri)
    for variable in (TRACKING_URI, REGISTRY_URI):
        check_uri(variable, named(variable))
    raise_if_any([*file_problems(run, MIRRORED), *foreign_problems(run, ["model"])])
    finished = read_finished(run)
    config, _ = read_mirrored(finished.folder)
    finished.check_ended()
    uri = destination(run, config.get("tracking", {}).get("uri"), uri)
    uri = uri or absolute_uri(named(TRACKING_URI)) or default_uri(run)
    registry = absolute_uri(registry or named(REGISTRY_URI)) or uri
    with errors_told(registry), TemporaryDirectory() as scratch:
        client = client_of(uri, registry)
        mirror = Replica(finished.folder, uri)
        mirror.deliver()
        run_id, tags = mirror.run_id, _version_tags(finished)
        source, adapter = whole_model(finished, Path(scratch) / "whole")
        experiment = client.get_run(run_id).info.experiment_id
        # MLflow allows dots in names of registered models, but not of logged models.
        logged = client.create_logged_model(experiment, name.replace(".", "_"), source_run_id=run_id, tags=tags)
        model_id, place = logged.model_id, logged.artifact_location
        described = Model(artifact_path=place, model_uuid=model_id, run_id=run_id, model_id=model_id)
        known = Description(finished.spec, effective_length(source, finished.max_length))
        members = list(listed(finished.folder.snapshots).values())
        robustness = robustness_text(evaluations_of(finished.folder.model))
        save_flavor(source, adapter, known, Path(scratch) / "model", described, members, robustness)
        client.log_model_artifacts(model_id, str(Path(scratch) / "model"))
        client.finalize_logged_model(model_id, LoggedModelStatus.READY)
        client.log_outputs(run_id, [LoggedModelOutput(model_id, step=finished.results["export"]["step"])])
        client.log_batch(run_id, metrics=list(_metrics_of_model(finished, dataset_name(config), model_id)))
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        made = client.create_model_version(name, place, run_id, tags, model_id=model_id)
    return int(made.version), registry


def promote(name: str, version: int, alias: str, force: bool = False, uri: str | None = None) -> str:
    """Points an alias to a version, unless the alias's current version scores higher.

    Args:
        force: whether to do it regardless of scores.
        uri: the registry; None: MLFLOW_REGISTRY_URI, MLFLOW_TRACKING_URI, or `runs/mlflow.db`.

    Returns:
        A sentence for the user.

    Raises:
        UserError: if the version scores below the current one, or was scored on another dev set.
    """
    where = registry_uri(uri)  # once, since a run that begins meanwhile may be the last one then
    candidate, champion = promotable(name, version, alias, force, where)
    if champion == candidate:
        return f"{name} version {version} is {alias} already"
    with errors_told(where):
        client_of(where).set_registered_model_alias(name, alias, str(version))
    return f"{name} version {version} is {alias}" + (f" in the place of version {champion.version}" if champion else "")


def promotable(name: str, version: int, alias: str, force: bool, where: str) -> tuple[Registered, Registered | None]:
    """A version, and the one that an alias points to now, or None; the same twice if that is the version.

    Args:
        where: the registry.

    Raises:
        UserError: as `promote`.
    """
    found = {entry.version: entry for entry in registered_versions(name, where)}
    if version not in found:
        raise UserError(Problem("VERSION", version, f"{name} has no such version", f"there are: {', '.join(map(str, found))}"))
    candidate = found[version]
    champion = next((entry for entry in found.values() if alias in entry.aliases), None)
    if champion and champion != candidate and not force and (reason := _against(candidate, champion, alias)):
        raise UserError(Problem("VERSION", version, reason, "train a better one, or pass --force"))
    return candidate, champion


def _against(candidate: Registered, champion: Registered, alias: str) -> str | None:
    """Why a candidate must not replace the champion; None if it may."""
    here = f"version {champion.version}, now {alias}"
    if candidate.tags.get(DEV) is None or candidate.tags.get(DEV) != champion.tags.get(DEV):
        return f"it was not scored on the same dev set as {here}: their scores are not comparable"
    if candidate.score is None or champion.score is None or not candidate.score >= champion.score:
        return f"it scores {candidate.score}, below {here}, with {champion.score}, on the same dev set"
    return None


def registered_versions(name: str | None = None, uri: str | None = None) -> list[Registered]:
    """All versions of a registered model, or of all models, oldest first.

    Raises:
        UserError: if there is no such model, or the registry cannot be reached.
    """
    with errors_told(where := registry_uri(uri)):
        client = client_of(where)
        names = [name] if name else sorted(model.name for model in pages(client.search_registered_models))
        found = []
        for one in names:
            aliases = client.get_registered_model(one).aliases
            for entry in sorted(
                pages(client.search_model_versions, filter_string=f"name = '{one}'"), key=lambda entry: int(entry.version)
            ):
                pointing = sorted(alias for alias, to in aliases.items() if int(to) == int(entry.version))
                found.append(Registered(one, int(entry.version), pointing, dict(entry.tags)))
    return found


def download(model_uri: str, uri: str | None = None) -> Path:
    """Downloads `models:/NAME@alias` or `models:/NAME/VERSION`; the folder is deleted when the process ends.

    Args:
        uri: the registry, as for `promote`.
    """
    scratch = mkdtemp(prefix="mat_ds-")
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    with errors_told(where := registry_uri(uri)):
        client, (name, alias, version) = client_of(where), _parts(model_uri)
        # MLflow itself would resolve the alias in the environment's registry.
        number = client.get_model_version_by_alias(name, alias).version if alias else version
        source = client.get_model_version_download_uri(name, number)
        folder = mlflow.artifacts.download_artifacts(
            source, dst_path=scratch, tracking_uri=client_uri(address_of_runs(where, uri))
        )
    return Path(folder) / "model"


def address_of_runs(where: str, uri: str | None) -> str:
    """Where the runs are of the models in a registry: it may be elsewhere, unless `uri` names both."""
    return tracking_uri(None) if uri is None and named(TRACKING_URI) else where


def _parts(model_uri: str) -> tuple[str, str, str]:
    """Name, alias and version of a `models:/` URI; alias or version is empty."""
    address = model_uri.removeprefix("models:/")
    name, at, alias = address.partition("@")
    name, _, version = (name, "", "") if at else address.partition("/")
    if not name or not (alias or version.isdecimal()):
        raise UserError(Problem("MODEL", model_uri, "has no version", "write models:/NAME@alias or models:/NAME/VERSION"))
    return name, alias, version


def _metrics_of_model(finished: Finished, data: str, model_id: str) -> Iterator[Metric]:
    """The dev scores of the exported model on the data called `data`, by which MLflow compares models. The run has these points
    already."""
    events = (e for e in read_events(finished.folder.events) if e["event"] == "evaluation")
    for record in (e for e in events if e["step"] == finished.results["export"]["step"]):
        for name, value in event_metrics(record).items():
            yield Metric(
                name, value, milliseconds(record), record["step"], model_id, data, finished.results["dev_sha256"][:DIGEST]
            )


def _version_tags(finished: Finished) -> dict[str, str]:
    """The tags by which a version is found and compared."""
    results, exported = finished.results, finished.exported
    own = read_tracking(finished.folder).get("run_id")
    metrics = {f"{split}.{name}": exported[split][name] for split in finished.spec.dev for name in finished.spec.metrics}
    found = {
        "run": finished.folder.path.absolute().name, **({"run_id": own} if own else {}),
        "task": finished.spec.name, "method": finished.run.method.name, "seed": finished.run.seed,
        "score": finished.score, "last": results["last"]["score"], "best": results["best"]["score"],
        "median_last_half": results["median_last_half"], **metrics,
        "dev_sha256": results["dev_sha256"], "data_sha256": finished.environment["data_sha256"],
    }  # fmt: skip
    return {PREFIX + key: str(value) for key, value in found.items()}
