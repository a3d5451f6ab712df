"""What every model of this package promises. A model inherits the whole suite by naming itself:

    class TestMine(ModelContract):
        model = "Mine"

The toy world: 12 users and 30 items, ratings cut in time, so that the test rows hold a user and items that train has
never seen, and rows without history; a tiny LLM of d = 32 made of its titles.
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
    """A folder with dataset/world in it; caches of trained parts are shared by the models."""
    folder = tmp_path_factory.mktemp("world")
    random = np.random.default_rng(0)
    ratings = ["user,item,rating,timestamp"]
    for place in range(240):
        user = "new" if place >= 228 else f"u{place % 11}"
        item = (place * 5 + place // 11 * 7) % (24 if place < 192 else 30)  # train does not know the last six
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
    """Subclass it, and set `model`.

    model: its name in the registry.
    options: settings beyond the small ones.
    memorises_at: a learning rate at which it learns 12 rows by heart; None: nothing of it is trained by steps.
    steps: that this may take; by_heart: the AUC that it then has on them.
    """

    model: ClassVar[str]
    options: ClassVar[dict[str, Any]] = {}
    memorises_at: ClassVar[float | None] = 0.01
    steps: ClassVar[int] = 300
    by_heart: ClassVar[float] = 0.95

    @pytest.fixture
    def stage(self, world: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
        """The model, freshly initialised, with its parts and rows."""
        monkeypatch.chdir(world)
        yield self.make()

    def make(self) -> Stage:
        """Another one, in the same state."""
        repairs.apply_all()
        metrics.register()
        cls = model_class(self.model)
        known = declared_settings(self.model, "world")
        settings = resolve(self.model, "world", {k: v for k, v in {**SMALL, **self.options}.items() if k in known})
        if "llm" in settings.needs:
            settings, *_ = with_llm(settings)
        config = CoraConfig(cls, "world", settings=settings)
        ratings = load_ratings(Path(config["data_path"]), "world", config.final_config_dict)
        parts = ready_parts(config, ratings)
        return Stage(config, ratings, lambda c, d: cls(c, d, **parts.arguments), parts.identity, parts.history_length)

    def test_it_memorises_a_few_rows(self, stage: Stage) -> None:
        """Twelve rows are learned by heart: what conditions the LLM reaches its answer."""
        if self.memorises_at is None:
            pytest.skip("nothing of it is trained by steps")
        rows = next(stage.rows("train"))
        label = rows[stage.config["LABEL_FIELD"]].numpy()
        chosen = np.sort(np.concatenate([np.flatnonzero(label == value)[:6] for value in (0, 1)]))
        rows, label = rows[torch.from_numpy(chosen)], label[chosen]
        learned = [parameter for parameter in stage.model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.Adam(learned, lr=self.memorises_at)
        for _ in range(self.steps):
            optimizer.zero_grad()
            stage.model.calculate_loss(rows).backward()
            optimizer.step()
        stage.model.eval()
        with torch.no_grad():
            assert auc(stage.model.predict(rows).numpy(), label) > self.by_heart

    def test_its_loss_is_a_mean_over_rows(self, stage: Stage) -> None:
        """Loss and gradient of two uneven parts of a batch add up to those of the whole: it may be read in parts."""
        if not any(parameter.requires_grad for parameter in stage.model.parameters()):
            pytest.skip("nothing of it is trained by steps")
        if loss_in_parts.is_measured(type(stage.model)):
            pytest.skip("it is measured before each training in parts")
        rows = next(stage.rows("train"))[:12]
        stage.model.train()
        assert loss_in_parts.difference(stage.model, stage.model.calculate_loss, rows) is None

    def test_only_its_own_weights_move(self, stage: Stage, tmp_path: Path) -> None:
        """What a checkpoint holds is what training changes; frozen parts end bit for bit as they were."""
        own = {id(p) for p in getattr(stage.model, "trained", stage.model).parameters()}
        others = {name: p for name, p in stage.model.named_parameters() if id(p) not in own}
        assert not any(p.requires_grad for p in others.values())
        before = {name: p.detach().clone() for name, p in others.items()}
        stage.fit(tmp_path, title=self.model)
        assert all(torch.equal(before[name], p) for name, p in others.items())

    def test_a_saved_model_scores_alike(self, stage: Stage, tmp_path: Path) -> None:
        """Train, save, load into another object: the very same scores."""
        stage.fit(tmp_path, title=self.model)
        stage.load(tmp_path)
        again = self.make()
        again.load(tmp_path)
        assert np.array_equal(stage.score("test"), again.score("test"))

    def test_a_batch_is_scored_as_its_rows_are(self, stage: Stage) -> None:
        """A row's score does not depend on its company; also for an unknown user or item, and without history."""
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
