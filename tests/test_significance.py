"""Laws of a comparison's statistics: pairs and ties are those of the scores, and old runs stay valid without them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recbole_cora import cli, metrics
from recbole_cora.compare.experiment import Experiment, System, make_experiment
from recbole_cora.compare.figures import pareto_front, write_figures
from recbole_cora.compare.pages import with_tables
from recbole_cora.compare.runs import Run
from recbole_cora.compare.table import write_report
from recbole_cora.errors import SettingError
from recbole_cora.files import write_json
from recbole_cora.statistics import paired
from recbole_cora.statistics.simulation import simulate
from recbole_cora.summary import write_scores
from tests.test_compare import first_table, result_of

USERS = 60


def system_runs(folder: Path, name: str, scores: list[Any], user: Any, labels: Any, keep: bool = True) -> list[Run]:
    """Write finished runs of a system, one per seed, with their scored test rows if `keep`."""
    runs = []
    system = System(name, "MF", {}, {})
    for seed, each in enumerate(scores):
        run = Run(system, seed, folder / f"{name}-{seed}")
        auc, uauc = metrics.auc(each, labels), metrics.uauc(user, each, labels)[0]
        result = result_of(0.5) | {"test": {"auc": auc, "uauc": uauc, "logloss": 0.5}, "seconds": {"score": 2.0}}
        result |= {"rows": {"train": 3, "valid": 1000, "test": 1000}}
        write_json(run.folder / "MF/result.json", result)
        if keep:
            users = [f"u{number}" for number in user]
            items = [f"NA{number}" for number in range(len(user))]
            write_scores(run.folder / "MF/scores.test.csv", users, items, labels, each, logits=True)
        runs.append(run)
    return runs


def report(folder: Path, runs: list[Run], pairs: tuple[tuple[str, str], ...] = ()) -> tuple[dict[str, Any], str]:
    """Write the report of these runs; return its entry `statistics` and its page."""
    systems = tuple(dict.fromkeys(run.system.name for run in runs))
    by_name = {run.system.name: run.system for run in runs}
    experiment = Experiment("mine", "toy", (0, 1), {}, tuple(by_name[name] for name in systems), pairs)
    write_report(experiment, runs, {}, folder)
    return json.loads((folder / "report.json").read_text())["statistics"], (folder / "report.md").read_text()


@pytest.fixture
def scored() -> tuple[Any, Any, dict[str, list[Any]]]:
    """Users, labels and two seeds' scores of three systems: good, as good but for noise, and bad."""
    random = np.random.default_rng(7)
    user, labels, (good, bad) = simulate(random, USERS, (1.8, 0.3))
    labels = labels.astype(np.float32)

    def seeds(scores: Any, noise: float) -> list[Any]:
        return [(scores + random.normal(0, noise, len(scores))).astype(np.float32) for _ in range(2)]

    return user, labels, {"good": seeds(good, 0.01), "as good": seeds(good, 0.1), "bad": seeds(bad, 0.01)}


def bold(folder: Path) -> set[str]:
    """Return the systems whose AUC is bold in the first table."""
    cells = {line.split(" | ")[0].removeprefix("| "): line.split(" | ")[1] for line in first_table(folder)}
    return {name for name, cell in cells.items() if cell.startswith("**")}


def test_all_that_tie_with_the_best_are_bold_together(tmp_path: Path, scored: Any) -> None:
    """Means that differ but tie are bold in report.md and in pages; one that differs significantly is not. The p-values
    are corrected by Holm over all tests, and the sentences state the numbers of the report."""
    user, labels, scores = scored
    runs = [run for name, each in scores.items() for run in system_runs(tmp_path, name, each, user, labels)]
    statistics, page = report(tmp_path / "out", runs, (("good", "as good"), ("bad", "as good")))
    assert statistics["users"] == USERS and not statistics["without"]
    best = statistics["best"]["auc"]
    assert set(statistics["tied_with_best"]["auc"]) == {"good", "as good"} == bold(tmp_path / "out")
    comparisons = statistics["comparisons"]
    pairs_of_auc = [frozenset((each["first"], each["second"])) for each in comparisons if each["metric"] == "auc"]
    assert len(pairs_of_auc) == len(set(pairs_of_auc)) == 3  # a named pair that contains the best is tested once
    assert [each["p_holm"] for each in comparisons] == pytest.approx(paired.holm([each["p"] for each in comparisons]))
    for each in comparisons:
        means = [
            np.mean(
                [
                    metrics.auc(s, labels) if each["metric"] == "auc" else metrics.uauc(user, s, labels)[0]
                    for s in scores[name]
                ]
            )
            for name in (each["first"], each["second"])
        ]
        assert each["difference"] == pytest.approx(means[0] - means[1])
        assert each["low"] <= each["difference"] <= each["high"]
        assert each["tie"] == (each["p_holm"] >= 0.05) == ("bad" not in (each["first"], each["second"]))
    mean = f"{np.mean([metrics.auc(each, labels) for each in scores[best]]):.4f}".removeprefix("0")
    sentence = statistics["sentences"][0]
    assert sentence.startswith(f"{best} has the highest AUC, {mean}, but ties with ") and f"- {sentence}\n" in page
    assert "bad, the next that does not tie (95 % interval +" in sentence and "p < .001" not in sentence.split("and")[0]
    assert "1 s per 1,000 pairs and 1 trained parameters" in sentence  # 2 s for 1,000 valid and 1,000 test rows
    assert ", tie |" in page and "| bad minus as good | **-." in page

    (tmp_path / "page.md").write_text("<!-- table out: AUC -->\n<!-- /table -->\n")
    lines = with_tables(tmp_path / "page.md", tmp_path).splitlines()
    assert {line.split(" | ")[0].removeprefix("| ") for line in lines if "**" in line} == {"good", "as good"}


def test_runs_without_scores_stay_valid_without_statistics(tmp_path: Path, scored: Any) -> None:
    """A system without scores, with a damaged file or with other rows is named with the reason, in one line, and the
    others are compared. If the best has no scores, the highest mean is bold."""
    user, labels, scores = scored
    old = system_runs(tmp_path, "old", [s - 5 * (1 - labels) for s in scores["bad"]], user, labels, keep=False)
    bad = system_runs(tmp_path, "bad", scores["bad"], user, labels)
    good = system_runs(tmp_path, "good", scores["good"], user, labels)
    cut = system_runs(tmp_path, "cut", scores["bad"], user, labels)
    path = cut[0].scores_file()
    assert path is not None
    path.write_text(path.read_text()[:5000] + ",x")
    other = system_runs(tmp_path, "other", [s[1:] for s in scores["bad"]], user[1:], labels[1:])
    statistics, page = report(tmp_path / "out", [*bad, *good, *cut, *other], (("good", "bad"), ("cut", "bad")))
    assert set(statistics["intervals"]) == {"good", "bad"} and set(statistics["without"]) == {"cut", "other"}
    (line,) = [line for line in page.splitlines() if line.startswith("Without statistics: ")]
    assert "cut (its scores.test.csv is damaged)" in line and "other (its test rows are not those of bad)" in line

    statistics, page = report(tmp_path / "out", [*old, *good, *bad], (("good", "bad"),))
    assert statistics["best"] == {} and statistics["sentences"] == [] and bold(tmp_path / "out") == {"old"}
    assert len(statistics["comparisons"]) == 2  # the named pair is still compared

    statistics, page = report(tmp_path / "out", old)
    assert "Without statistics: old (finished before compare kept scores)." in page and bold(tmp_path / "out") == {
        "old"
    }


def test_without_statsmodels_the_report_says_how_to_install_it(
    tmp_path: Path, scored: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report is written, with one line instead of the statistics."""
    user, labels, scores = scored

    def fail() -> None:
        raise SettingError("Holm's correction needs statsmodels; install it: pip install 'recbole-cora[report]'")

    monkeypatch.setattr("recbole_cora.compare.significance.check_installed", fail)
    _, page = report(tmp_path, system_runs(tmp_path, "good", scores["good"], user, labels))
    assert "No statistics: Holm's correction needs statsmodels; install it: pip install" in page
    assert bold(tmp_path) == {"good"}


@pytest.mark.parametrize(
    ("pairs", "says"),
    [
        ("3", "pairs is 3; expected a list of pairs"),
        ("[[MF]]", "pairs has ['MF']; expected the names of two systems"),
        ("[[MF, LGCM]]", "pairs has 'LGCM', which no system is named; did you mean 'LGCN'?"),
        ("[[MF, MF]]", "expected two different systems"),
        ("[[MF, LGCN], [LGCN, MF]]", "pairs has 'LGCN' and 'MF' twice"),
    ],
)
def test_a_wrong_pair_is_named(tmp_path: Path, pairs: str, says: str) -> None:
    """Each mistake in `pairs` is one line; right pairs are kept in order."""
    file = tmp_path / "mine.yaml"
    text = "dataset: toy\nsystems: [{name: MF, model: MF}, {name: LGCN, model: LGCN}]\npairs: "
    file.write_text(text + pairs)
    with pytest.raises(SettingError) as error:
        make_experiment(str(file), [], None, None, {})
    assert says in str(error.value) and "\n" not in str(error.value)
    file.write_text(text + "[[LGCN, MF]]")
    assert make_experiment(str(file), [], None, None, {}).pairs == (("LGCN", "MF"),)


@pytest.mark.slow
def test_compare_keeps_the_scores_that_its_statistics_use(toy: Path) -> None:
    """Every run keeps its scored test rows, whatever the settings say; intervals hold the table's means."""
    assert cli.main([
        "compare", "--out=out", "--show_progress=False", "--models=Averages,MF", "--dataset=toy", "--seeds=1,2",
        "--epochs=2", "--save_scores=False",
    ]) == 0  # fmt: skip
    assert len(list(Path("out/runs").glob("*/*/scores.test.csv"))) == 4
    content = json.loads(Path("out/report.json").read_text())
    statistics = content["statistics"]
    assert set(statistics["intervals"]) == {"Averages", "MF"} and len(statistics["comparisons"]) == 2
    means = {row["system"]: row["test"]["auc"]["mean"] for row in content["systems"]}
    (auc,) = [each for each in statistics["comparisons"] if each["metric"] == "auc"]
    assert auc["difference"] == pytest.approx(means[auc["first"]] - means[auc["second"]])


def test_the_pareto_front_holds_what_nothing_beats() -> None:
    """A system is on the front if every faster or equally fast one is worse; a slower one has to be better."""
    points = [
        (2.0, 0.7, "slow, equal"),
        (1.0, 0.7, "fast"),
        (1.0, 0.6, "worse"),
        (3.0, 0.8, "best"),
        (9.0, 0.79, "late"),
    ]
    assert [name for _, _, name in pareto_front(points)] == ["fast", "best"]


def test_the_price_of_a_pair_counts_the_rows_that_were_scored(tmp_path: Path, scored: Any) -> None:
    """Without scored valid rows, the same seconds are for the 1,000 test rows alone, not for 2,000 rows."""
    user, labels, scores = scored
    prices: list[set[str]] = []
    for has_valid in (True, False):
        folder = tmp_path / str(has_valid)
        runs = [run for name, each in scores.items() for run in system_runs(folder, name, each, user, labels)]
        for run in runs:
            path = run.folder / "MF/result.json"
            result = json.loads(path.read_text()) | {"valid": {"auc": 0.5, "uauc": 0.5, "logloss": 0.7}}
            write_json(path, {key: value for key, value in result.items() if has_valid or key != "valid"})
        statistics, _ = report(folder / "report", runs)
        prices.append(set(re.findall(r"(\S+) s per 1,000 pairs", " ".join(statistics["sentences"]))))
    assert prices == [{"1"}, {"2"}]


def test_figures_are_written_for_what_has_finished(tmp_path: Path, scored: Any) -> None:
    """Each figure is an SVG and a PNG file and names every system; the same runs give the same SVG files."""
    user, labels, scores = scored
    runs = [run for name, each in scores.items() for run in system_runs(tmp_path, name, each, user, labels)]
    unfinished = Run(System("later", "MF", {}, {}), 0, tmp_path / "later")
    systems = tuple(dict.fromkeys(name for name in scores))
    by_name = {run.system.name: run.system for run in runs}
    experiment = Experiment("mine", "toy", (0, 1), {}, (*(by_name[name] for name in systems), unfinished.system))
    for run in runs:
        path = run.folder / "MF/result.json"
        curve = [{"epoch": epoch, "loss": 1.0, "auc": 0.5 + epoch / 10} for epoch in (1, 2, 3)]
        write_json(path, json.loads(path.read_text()) | {"curve": curve})
    files = write_figures(experiment, [*runs, unfinished], tmp_path / "figures")
    assert [path.name for path in files] == ["intervals.svg", "cost.svg", "curves.svg"]
    texts = [path.read_text() for path in files]
    for path, text in zip(files, texts, strict=True):
        assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
        assert all(f"<!-- {name} -->" in text for name in systems) and "<!-- later -->" not in text
    assert [path.read_text() for path in write_figures(experiment, runs, tmp_path / "figures")] == texts
    assert write_figures(experiment, [unfinished], tmp_path / "none") == [] and not (tmp_path / "none").exists()
