"""The command line: `recbole-cora COMMAND ...`. A command is a function here and a line in COMMANDS."""

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
  compare  run several models or a ready experiment (the paper's tables) over seeds, and write one report
  tune     search settings of any model by Ray Tune, on the valid rows
  prepare  turn raw ratings (ml-1m, amazon-book, your own CSV) into a dataset, split once and for all

examples:
  recbole-cora run --model=CoRA --dataset=ml-100k                    # defaults: LGCN encoder; tiny LLM without a GPU
  recbole-cora run --model=CoRA --dataset=ml-100k --cf_encoder=MF --seed=1
  recbole-cora run --model=CoRA --dataset=ml-1m --llm=lmsys/vicuna-7b-v1.5
  recbole-cora run --model=DeepFM --dataset=ml-100k                  # any model of RecBole, on the same rows
  recbole-cora run --config_files=mine.yaml --learning_rate=3e-4     # as in RecBole: files < --key=value
  recbole-cora run --help --model=CoRA                               # its settings; run --models lists the models
  recbole-cora compare --models=CoRA,MF,Averages --dataset=ml-100k --seeds=1,2,3
  recbole-cora prepare csv --ratings=ratings.csv --items=movies.csv  # then: run --dataset=ratings

In a checkout, `python run_recbole_cora.py ...` is `recbole-cora run ...`.
"""


def run_command(arguments: list[str]) -> None:
    """`run`: one run; its summary, then on the last line the path of its result.json."""
    options = parse_arguments(arguments, alone={"resume": "auto", "models": True})
    named, options, problems = split_options(RunOptions, options)
    raise_all(problems, SettingError)
    if named["models"]:
        print(models_page(), end="")
        return
    resolve_run(named["model"], named["dataset"], options, named["config_files"])  # mistakes need no torch
    from recbole_cora.processes import is_main
    from recbole_cora.quick_start import run
    from recbole_cora.summary import summary

    result = run(named["model"], named["dataset"], options, named["config_files"])
    if is_main():  # of several processes
        print(f"\n{summary(result)}\n{result['folder']}/result.json")


def prepare_command(arguments: list[str]) -> None:
    """`prepare`: see `recbole_cora.prepare.command`."""
    from recbole_cora.prepare.command import prepare_command as command

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    command(arguments)


def compare_command(arguments: list[str]) -> None:
    """`compare`: see `recbole_cora.compare`."""
    from recbole_cora.compare.command import compare_command as command

    command(arguments)


def tune_command(arguments: list[str]) -> None:
    """`tune`: see `recbole_cora.tune`."""
    from recbole_cora.tune.command import tune_command as command

    command(arguments)


def help_of(command: str, arguments: list[str]) -> str:
    """Return the help of a command; of `run --model=NAME`, with the settings of that model."""
    if command not in _OPTIONS:
        return _HELP
    page = command_help(_OPTIONS[command])
    if command == "compare":
        names = sorted(path.stem for path in (PROPERTIES / "experiments").glob("*.yaml"))
        page += f"\nexperiments: {', '.join(names)}\n"
    others = [argument for argument in arguments if argument not in _ASKS]
    model = parse_arguments(others, alone={"models": True}).get("model")
    if model is not None:
        check_names(model, "any")
        page += "\n" + model_help(model)
    return page


_ASKS = ("--help", "-h")
_OPTIONS: dict[str, type] = {"run": RunOptions, "compare": CompareOptions, "tune": TuneOptions}
COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "run": run_command,
    "prepare": prepare_command,
    "compare": compare_command,
    "tune": tune_command,
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command. Returns 0; 2 after an error that the user can mend, named in one line on standard error."""
    arguments = sys.argv[1:] if arguments is None else arguments
    command, *rest = arguments or ["--help"]
    try:
        if command in (*_ASKS, "help"):
            print(_HELP, end="")
        elif command == "--version":
            print(f"recbole-cora {version('recbole-cora')}")
        elif command not in COMMANDS:
            raise CoraError(
                f"unknown command '{command}'; expected one of {', '.join(COMMANDS)} (see recbole-cora --help)"
            )
        elif set(_ASKS) & set(rest) and command in _OPTIONS:
            print(help_of(command, rest), end="")
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
