"""The contract of every model of this package. A model inherits the whole suite by naming itself:

    class TestMine(ModelContract):
        model = "Mine"

The data: 12 users and 30 items, with ratings split in time, so the test rows contain a user and items that train
has never seen, and rows without history. The LLM is a tiny one with d = 32, trained on the data's titles.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_cora import metrics, repairs
from recbole_cora.data.ratings import load_ratings
from recbole_cora.data.recbole_dataset import ROW
from recbole_cora.llm.choice import with_llm
from recbole_cora.metrics import auc
from recbole_cora.parts.ready import ready_parts
from recbole_cora.prepare.command import prepare_command
from recbole_cora.registry import model_class
from recbole_cora.settings.recbole_config import CoraConfig
from recbole_cora.settings.resolve import declared_settings, resolve
from recbole_cora.training import loss_in_parts
from recbole_cora.training.stage import Stage

SMALL: dict[str, Any] = {
    "llm": "tiny", "tiny_steps": 100, "tiny_hidden": 32, "tiny_layers": 2, "epochs": 2, "steps_per_epoch": 3,
    "hidden": 32, "feed_forward": 32, "rank": 4, "warmup_steps": 1, "cf_config": {"epochs": 2}, "cf_folds": 2,
    "codes_config": {"epochs": 2}, "lora_config": {"epochs": 1, "steps_per_epoch": 2}, "seed": 3,
    "show_progress": False, "cf_dropout": 0.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that contains dataset/world; the models share its cache of trained parts."""
    folder = tmp_path_factory.mktemp("world")
    random = np.random.default_rng(0)
    ratings = ["user,item,rating,timestamp"]
    for place in range(240):
        user = "new" if place >= 228 else f"u{place % 11}"
        item = (place * 5 + place // 11 * 7) % (24 if place < 192 else 30)  # the last six are not in train
        ratings.append(f"{user},i{item},{random.choice([2, 5])},{1000 + place}")
    items = ["item,title,genres", *(f"i{n},Film {n} of {'love' if n % 2 else 'war'},Drama" for n in range(30))]
    for name, lines in (("ratings", ratings), ("items", items)):
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    out = folder / "dataset" / "world"
    prepare_command(
        ["csv", f"--ratings={folder / 'ratings.csv'}", f"--items={folder / 'items.csv'}", "--name=world",
         "--split=global", f"--out={out}", "--quiet"]
    )  # fmt: skip
    return folder


class ModelContract:
    """The tests of one model. Subclass it and set `model`.

    model: its name in the registry.
    options: settings in addition to `SMALL`.
    memorises_at: a learning rate at which it memorises 12 rows; None if it has no parameters trained by gradient steps.
    steps: the steps in which it must memorise them.
    memorised_auc: the AUC on these rows that it must exceed.
    """

    model: ClassVar[str]
    options: ClassVar[dict[str, Any]] = {}
    memorises_at: ClassVar[float | None] = 0.01
    steps: ClassVar[int] = 300
    memorised_auc: ClassVar[float] = 0.95

    @pytest.fixture
    def stage(self, world: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
        """A stage with the freshly initialised model, its frozen parts and its rows."""
        monkeypatch.chdir(world)
        yield self.make()

    def make(self) -> Stage:
        """Make a stage; every call returns one in the same state."""
        repairs.apply_all()
        metrics.register()
        cls = model_class(self.model)
        declared = declared_settings(self.model, "world")
        settings = resolve(self.model, "world", {k: v for k, v in {**SMALL, **self.options}.items() if k in declared})
        if "llm" in settings.needs:
            settings, *_ = with_llm(settings)
        config = CoraConfig(cls, "world", settings=settings)
        ratings = load_ratings(Path(config["data_path"]), "world", config.final_config_dict)
        parts = ready_parts(config, ratings)
        return Stage(config, ratings, lambda c, d: cls(c, d, **parts.arguments), parts.identity, parts.history_length)

    @pytest.mark.slow
    def test_it_memorises_a_few_rows(self, stage: Stage) -> None:
        """The model can memorise twelve rows, so its conditioning reaches the LLM's answer."""
        if self.memorises_at is None:
            pytest.skip("it has no parameters trained by gradient steps")
        rows = next(stage.rows("train"))
        label = rows[stage.config["LABEL_FIELD"]].numpy()
        places = np.sort(np.concatenate([np.flatnonzero(label == value)[:6] for value in (0, 1)]))
        rows, label = rows[torch.from_numpy(places)], label[places]
        trainable = [parameter for parameter in stage.model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.Adam(trainable, lr=self.memorises_at)
        for _ in range(self.steps):
            optimizer.zero_grad()
            stage.model.calculate_loss(rows).backward()
            optimizer.step()
        stage.model.eval()
        with torch.no_grad():
            assert auc(stage.model.predict(rows).numpy(), label) > self.memorised_auc

    def test_its_loss_is_a_mean_over_rows(self, stage: Stage) -> None:
        """Loss and gradient of two uneven parts of a batch add up to those of the whole, so batches may be split."""
        if not any(parameter.requires_grad for parameter in stage.model.parameters()):
            pytest.skip("it has no parameters trained by gradient steps")
        if loss_in_parts.is_measured(type(stage.model)):
            pytest.skip("its loss is measured before each training in parts")
        rows = next(stage.rows("train"))[:12]
        stage.model.train()
        assert loss_in_parts.difference(stage.model, stage.model.calculate_loss, rows) is None

    def test_only_its_own_weights_move(self, stage: Stage, tmp_path: Path) -> None:
        """Training changes only the weights that a checkpoint contains; frozen parts stay the same, bit for bit."""
        trained_ids = {id(p) for p in getattr(stage.model, "trained", stage.model).parameters()}
        others = {name: p for name, p in stage.model.named_parameters() if id(p) not in trained_ids}
        assert not any(p.requires_grad for p in others.values())
        before = {name: p.detach().clone() for name, p in others.items()}
        stage.fit(tmp_path, title=self.model)
        assert all(torch.equal(before[name], p) for name, p in others.items())

    def test_a_saved_model_scores_alike(self, stage: Stage, tmp_path: Path) -> None:
        """A trained model that is saved and loaded into a new object has exactly the same scores."""
        stage.fit(tmp_path, title=self.model)
        stage.load(tmp_path)
        again = self.make()
        again.load(tmp_path)
        assert np.array_equal(stage.score("test"), again.score("test"))

    def test_a_batch_is_scored_as_its_rows_are(self, stage: Stage) -> None:
        """A row's score does not depend on its batch, also for new users and items, and without history."""
        ratings = stage.ratings
        rows = next(stage.rows("test"))
        train = ratings.rows("train")
        place = rows[ROW].numpy()
        assert not np.isin(ratings.user[place], ratings.user[train]).all()
        assert not np.isin(ratings.item[place], ratings.item[train]).all()
        assert (ratings.history_end[place] == ratings.history_start[place]).any()
        stage.model.eval()
        with torch.no_grad():
            together = stage.model.predict(rows)
            alone = torch.cat([stage.model.predict(_one(rows, n)) for n in range(len(rows))])
        assert torch.isfinite(together).all()
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def _one(rows: Interaction, n: int) -> Interaction:
    return rows[n : n + 1]
