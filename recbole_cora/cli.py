"""The command line, `recbole-cora COMMAND ...`. Each command is a function here and an entry of COMMANDS."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from importlib.metadata import version

from recbole_cora.errors import CoraError, SettingError, Stopped, raise_all
from recbole_cora.settings.commands import CompareOptions, RunOptions, TuneOptions, split_options
from recbole_cora.settings.pages import command_help, model_help, models_page
from recbole_cora.settings.reading import PROPERTIES, parse_arguments
from recbole_cora.settings.resolve import check_names
from recbole_cora.settings.restore import resolve_run

_HELP = """\
recbole-cora: a frozen LLM recommends with weights generated from collaborative signals (CoRA), inside RecBole.

usage: recbole-cora COMMAND [--key=value ...]      recbole-cora COMMAND --help      recbole-cora --version

commands:
  run      train a model on a dataset, score it, and write a run folder
  compare  run several models, or a built-in experiment (the paper's tables), over seeds, and write one report
  tune     find good settings for any model with Ray Tune, by its scores on the valid rows
  prepare  turn raw ratings (MovieLens, Amazon, Goodreads, your own CSV) into a dataset; prepare --list lists them

examples:
  recbole-cora run --model=CoRA --dataset=ml-100k                    # defaults: LGCN encoder; tiny LLM without a GPU
  recbole-cora run --model=CoRA --dataset=ml-100k --cf_encoder=MF --seed=1
  recbole-cora run --model=CoRA --dataset=ml-1m --llm=lmsys/vicuna-7b-v1.5 --allow_pickle=True
  recbole-cora run --model=DeepFM --dataset=ml-100k                  # any RecBole model, on the same rows
  recbole-cora run --config_files=mine.yaml --learning_rate=3e-4     # as in RecBole: files < --key=value
  recbole-cora run --help --model=CoRA                               # lists its settings; run --models lists the models
  recbole-cora compare --models=CoRA,MF,Averages --dataset=ml-100k --seeds=1,2,3
  recbole-cora prepare csv --ratings=ratings.csv --items=movies.csv  # then: run --dataset=ratings

In a checkout, `python run_recbole_cora.py ...` is `recbole-cora run ...`.
"""


def run_command(arguments: list[str]) -> None:
    """Run one model. Print a summary and, on the last line, the path of result.json."""
    arguments_by_key = parse_arguments(arguments, alone={"resume": "auto", "models": True})
    values, settings, problems = split_options(RunOptions, arguments_by_key)
    raise_all(problems, SettingError)
    options = RunOptions(**values)
    if options.models:
        print(models_page(), end="")
        return
    # Mistakes are reported before torch is imported.
    resolve_run(options.model, options.dataset, settings, options.config_files)
    from recbole_cora.processes import is_main
    from recbole_cora.quick_start import run
    from recbole_cora.summary import summary

    result = run(options.model, options.dataset, settings, options.config_files)
    if is_main():  # with several processes, only one prints
        print(f"\n{summary(result)}\n{result['folder']}/result.json")


def prepare_command(arguments: list[str]) -> None:
    """Prepare a dataset; see `recbole_cora.prepare.command`."""
    from recbole_cora.prepare.command import prepare_command as command

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    command(arguments)


def compare_command(arguments: list[str]) -> None:
    """Compare systems; see `recbole_cora.compare`."""
    from recbole_cora.compare.command import compare_command as command

    command(arguments)


def tune_command(arguments: list[str]) -> None:
    """Search settings; see `recbole_cora.tune`."""
    from recbole_cora.tune.command import tune_command as command

    command(arguments)


def help_page(command: str, arguments: list[str]) -> str:
    """Return the help of a command; with `--model=NAME`, also the settings of that model."""
    if command not in _OPTIONS:
        return _HELP
    page = command_help(_OPTIONS[command])
    if command == "compare":
        names = sorted(path.stem for path in (PROPERTIES / "experiments").glob("*.yaml"))
        page += f"\nexperiments: {', '.join(names)}\n"
    others = [argument for argument in arguments if argument not in _HELP_FLAGS]
    model = parse_arguments(others, alone={"models": True}).get("model")
    if model is not None:
        check_names(model, "any")
        page += "\n" + model_help(model)
    return page


_HELP_FLAGS = ("--help", "-h")
_OPTIONS: dict[str, type] = {"run": RunOptions, "compare": CompareOptions, "tune": TuneOptions}
COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "run": run_command,
    "prepare": prepare_command,
    "compare": compare_command,
    "tune": tune_command,
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit status.

    The status is 0, 2 after an error that the user can fix (one line on standard error), or 128 + n after signal n.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    command, *rest = arguments or ["--help"]
    try:
        if command in (*_HELP_FLAGS, "help"):
            print(_HELP, end="")
        elif command == "--version":
            print(f"recbole-cora {version('recbole-cora')}")
        elif command not in COMMANDS:
            raise CoraError(
                f"unknown command '{command}'; expected one of {', '.join(COMMANDS)} (see recbole-cora --help)"
            )
        elif set(_HELP_FLAGS) & set(rest) and command in _OPTIONS:
            print(help_page(command, rest), end="")
        else:
            COMMANDS[command](rest)
    except CoraError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Stopped as stop:
        print(f"stopped: {stop}", file=sys.stderr)
        return stop.status
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
