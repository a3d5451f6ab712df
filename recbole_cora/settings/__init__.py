"""Settings: each key is declared once, with type, range, default and a sentence; everything else comes from there.

kinds.py    what a setting is: type, range, default, help; reading a value
reading.py  YAML and `--key=value`, by a safe loader
overall.py  settings of every model          \\
parts.py    settings of the models' parts     }  one frozen dataclass per group; `python -m recbole_cora.settings`
models.py   settings of each model           /   writes properties/*.yaml and docs/settings.md from them
recbole.py  RecBole's own, from its YAML files
commands.py options of the commands beside settings
resolve.py  from defaults, presets, files and options to one run's frozen `Settings`
presets.py  what the tiny LLM needs instead of the paper's sizes
pages.py    the YAML files, the page of the docs, and --help

Dataclasses and not pydantic: the checks that are needed are few, the messages are ours, and --help answers before
anything heavy is imported. Nothing in this folder imports torch or recbole.
"""
