"""Settings: each key is declared once, with its type, range, default and help; everything else is derived from that.

kinds.py    a setting: its type, range, default and help, and how a value is read
reading.py  YAML files and `--key=value` arguments, read with a safe loader
overall.py  settings of every model          \\
parts.py    settings of the models' parts     }  one frozen dataclass per group; `python -m recbole_cora.settings`
models.py   settings of each model           /   generates properties/*.yaml and docs/settings.md from them
recbole.py  RecBole's settings, read from its YAML files
commands.py options of the commands that are not settings
resolve.py  one run's frozen `Settings`, from defaults, files and options
restore.py  the settings of an earlier run, from its folder
presets.py  defaults for the tiny LLM, instead of the paper's sizes
pages.py    the generated YAML files, docs/settings.md and --help

recbole_config.py  RecBole's Config, made from `Settings`

Dataclasses are used instead of pydantic: few checks are needed, the messages are our own, and --help answers before
anything heavy is imported. Only recbole_config.py imports torch or recbole.
"""
