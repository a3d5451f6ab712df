"""Fixtures: a toy dataset in RecBole's atomic files, with titles that break parsers, and a tiny LLM of each family."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from recbole_cora.llm.frozen import FrozenLLM
from recbole_cora.llm.hub import wrap_tokenizer
from recbole_cora.llm.tiny import train_tokenizer
from recbole_cora.prompts.template import load_template
from tests.llms import OPTIONS, SMALL

USERS, ITEMS, RATINGS = 12, 30, 20


def write_toy(folder: Path, name: str = "toy", **changes: str | None) -> Path:
    """Write the files of a toy dataset and return its folder, `<folder>/<name>`.

    Args:
        changes: text by file suffix ("inter", "item", ...), in place of the toy's; None leaves the file out.
    """
    random = np.random.default_rng(0)
    inter = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    for user in range(USERS):
        for place, item in enumerate(random.permutation(ITEMS)[:RATINGS]):
            rating = 5 if (item + user + place) % 2 else 2
            inter.append(f"u{user}\ti{item}\t{rating}\t{1000 + place}")
    titles = ["{history} {title}", '"Quoted', "NA", "</s> Yes", "It's 100% {0}", 'end"'] + [
        f"Title {n}" for n in range(ITEMS)
    ]
    items = ["item_id:token\ttitle:token_seq\tclass:token_seq"]
    items += [f"i{item}\t{titles[item]}\tDrama" for item in range(ITEMS)]
    texts: dict[str, str | None] = {"inter": "\n".join(inter) + "\n", "item": "\n".join(items) + "\n", **changes}
    target = folder / name
    target.mkdir(parents=True)
    for suffix, text in texts.items():
        if text is not None:
            (target / f"{name}.{suffix}").write_text(text, encoding="utf-8")
    return target


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the slow tests last."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory that contains dataset/toy; returns the path of dataset/toy."""
    monkeypatch.chdir(tmp_path)
    return write_toy(tmp_path / "dataset")


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The Hugging Face folders of tiny random models, by family."""
    torch.set_num_threads(1)
    texts = [load_template("movies").prompt(["Toy Story"], "Heat").text + answer for answer in (" Yes", " No")]
    tokenizer = wrap_tokenizer(train_tokenizer(texts * 20, SMALL["vocab_size"]), 256)
    folders = {}
    with torch.random.fork_rng(devices=[]):
        for family, options in OPTIONS.items():
            torch.manual_seed(1)
            config = transformers.AutoConfig.for_model(family, **{**SMALL, **options})
            model = transformers.AutoModelForCausalLM.from_config(config)
            for name, parameter in model.named_parameters():
                if name.endswith("bias"):  # initially zero, so that a forgotten bias would go unnoticed
                    torch.nn.init.normal_(parameter, std=0.2)
            folders[family] = tmp_path_factory.mktemp(family)
            model.save_pretrained(folders[family])
            tokenizer.save_pretrained(folders[family])
    return folders


@pytest.fixture(params=OPTIONS)
def llm(request: pytest.FixtureRequest, folders: dict[str, Path]) -> FrozenLLM:
    """A frozen LLM; the test runs once for each family."""
    return FrozenLLM.load(str(folders[request.param]), dtype="float32")


@pytest.fixture
def llama(folders: dict[str, Path]) -> FrozenLLM:
    """A frozen LLM of one family, for tests that do not depend on the family."""
    return FrozenLLM.load(str(folders["llama"]), dtype="float32")
