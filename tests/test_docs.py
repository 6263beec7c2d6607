"""The README and docs/ say what the code does."""

import re
from statistics import mean

from benchmarks import rivals
from mat_ds.errors import ExitCode
from mat_ds.runs.table import options_page
from mat_ds.tasks.kinds import KINDS
from mat_ds.tasks.registry import TASKS
from tests.support.launch import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = README + "".join(page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs").glob("*.md")))


def test_the_page_of_options_is_the_generated_one():
    assert (ROOT / "docs" / "options.md").read_text(encoding="utf-8") == options_page(), (
        "write it with `python -m mat_ds.runs.table > docs/options.md`"
    )


def test_every_link_leads_somewhere():
    for page in (ROOT / "README.md", ROOT / "SECURITY.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            if not target.startswith(("http://", "https://")):
                name, _, heading = target.partition("#")
                there = (page.parent / name).resolve() if name else page
                assert there.exists(), (page.name, target)
                assert not heading or heading in headings(there), (page.name, target)


def headings(page):
    """The anchors of a page, as GitHub derives them from its headings."""
    lines = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


def test_the_readme_fits_on_one_screen_of_a_browser():
    assert len(README.splitlines()) <= 100


def test_every_recipe_profile_and_exit_code_is_listed():
    for path in (*(ROOT / "launch" / "recipes").glob("*.yaml"), *(ROOT / "ds_configs").glob("*.json")):
        assert f"`{path.name}`" in PAGES
    for code in ExitCode:
        assert re.search(rf"^\| {code.value} \|", PAGES, re.M)


def test_every_metric_of_a_kind_is_listed():
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    for name, kind in KINDS.items():
        (row,) = re.findall(rf"^\| {name} \|(.*)$", page, re.M)
        assert set(kind.metrics) <= set(re.findall(r"`(\w+)`", row)), name


def test_every_task_of_glue_has_a_recipe():
    recipes = {path.stem for path in (ROOT / "launch" / "recipes").glob("*.yaml")}
    assert {name for name, spec in TASKS.items() if spec.hub == "nyu-mll/glue"} | {"anli", "anli_mixture"} <= recipes


def test_the_table_of_results_is_that_of_the_benchmarks_and_has_no_deviation_for_two_seeds(capsys):
    results = ROOT / "benchmarks" / "rivals.jsonl"
    rivals.table(results)
    lines = capsys.readouterr().out.splitlines()
    assert "\n".join(lines[1:]) in PAGES, "write what `python benchmarks/rivals.py benchmarks/rivals.jsonl --table` prints"
    assert "±" not in PAGES
    own = [line for line in rivals.finished(results) if (line["task"], line["method"]) == ("cola", "MAT")]
    low, high = sorted(100 * line["median"] for line in own)
    (row,) = (line for line in lines if line.startswith("| MAT |"))
    assert f"| {mean((low, high)):.1f} ({low:.1f} to {high:.1f}) |" in row
