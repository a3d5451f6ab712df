"""The command line of `recbole-cora compare`."""

from __future__ import annotations

import sys
from pathlib import Path

from recbole_cora.compare.experiment import make_experiment
from recbole_cora.compare.runs import dataset_key, plan, run_missing
from recbole_cora.errors import SettingError
from recbole_cora.files import check_writable
from recbole_cora.settings.commands import CompareOptions, split_options
from recbole_cora.settings.reading import parse_arguments


def compare_command(arguments: list[str]) -> None:
    """Execute the missing runs, write the report, and print it and its path.

    Raises:
        SettingError: names every mistake in the command and the experiment; nothing has run.
        DataError: the dataset has no files.
        WriteError: the folder of the comparison cannot be written.
        Stopped: a signal came; finished runs are kept.
        SystemExit: 1 if a run failed; standard error says how many, and where to read the reasons.
    """
    values, settings, problems = split_options(CompareOptions, parse_arguments(arguments))
    options = CompareOptions(**values)
    show_progress = settings.pop("show_progress", True)
    seeds = None if options.seeds is None else _numbers(options.seeds)
    experiment = make_experiment(options.experiment, _names(options.models), options.dataset, seeds, settings, problems)
    data = experiment.run_settings(experiment.systems[0], experiment.seeds[0]).data_folder
    # Imported here: mistakes are reported without pandas and SciPy
    from recbole_cora.compare.figures import write_figures
    from recbole_cora.compare.table import write_report
    from recbole_cora.prepare.command import prepare_by_itself

    prepare_by_itself(experiment.dataset, data, show_progress)
    key = dataset_key(data)
    folder = Path(options.out or f"compare/{experiment.name}-{experiment.dataset}")
    check_writable(folder, "give another --out=")
    runs = plan(experiment, folder, key)

    def report(failures: dict[str, str]) -> None:
        write_report(experiment, runs, failures, folder)

    failures = run_missing(runs, options.jobs, report, show_progress)
    report(failures)
    try:
        write_figures(experiment, runs, folder / "figures")
    except SettingError as error:  # a missing extra does not spoil the runs
        print(f"no figures: {error}", file=sys.stderr)
    print((folder / "report.md").read_text(encoding="utf-8"))
    print(folder / "report.json")
    if failures:
        print(
            f"error: {len(failures)} of {len(runs)} runs failed; {folder / 'report.md'} gives the reasons",
            file=sys.stderr,
        )
        raise SystemExit(1)


def _names(value: object) -> list[str]:
    """Return the entries of a list, or of a text with commas."""
    entries = value if isinstance(value, list) else str("" if value is None else value).split(",")
    return [str(name).strip() for name in entries if str(name).strip()]


def _numbers(value: object) -> list[int | str]:
    """Return the entries of `1,2,3`: whole numbers as integers, others as text, for the error message."""
    return [int(name) if name.isdecimal() else name for name in _names(value)]
