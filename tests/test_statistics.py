"""Laws of the intervals and tests: exact on given resamples, and true to their level on simulated scores."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import roc_auc_score

from recbole_cora.errors import SettingError
from recbole_cora.metrics import auc, uauc
from recbole_cora.statistics import users as users_module
from recbole_cora.statistics.bootstrap import Resampled, interval, p_value, resample
from recbole_cora.statistics.paired import difference, holm, sign_flip_p_value
from recbole_cora.statistics.simulation import coverage, rejections, simulate, true_metrics
from recbole_cora.statistics.users import mean_over_seeds, statistics_of

USERS = 30


def rows(seed: int = 0) -> tuple[Any, Any, list[Any]]:
    """Return users, labels and two systems' scores; scores are rounded, so that many tie."""
    user, labels, scores = simulate(np.random.default_rng(seed), USERS, (1.2, 0.9))
    return user, labels, [np.round(each, 1) for each in scores]


def test_a_resample_has_the_auc_of_its_concatenated_rows() -> None:
    """For given draws of users, AUC is sklearn's and UAUC is `metrics.uauc` on the drawn users' rows, put together."""
    user, labels, (scores, _) = rows()
    statistics = statistics_of(user, labels, scores)
    random = np.random.default_rng(1)
    for draws in random.integers(0, USERS, (20, USERS)):
        places = [np.flatnonzero(user == each) for each in draws]
        together = np.concatenate(places)
        drawn_user = np.repeat(np.arange(USERS), [len(each) for each in places])  # a user drawn twice counts twice
        counts = np.bincount(draws, minlength=USERS).astype(float)[None]
        assert statistics.auc(counts)[0] == pytest.approx(roc_auc_score(labels[together], scores[together]), abs=1e-12)
        expected, _ = uauc(drawn_user, scores[together], labels[together])
        assert statistics.uauc(counts)[0] == pytest.approx(expected, abs=1e-12)


def test_the_mean_over_seeds_is_the_mean_of_the_metrics() -> None:
    """On every resample, the statistics averaged over runs have the runs' mean AUC and mean UAUC."""
    user, labels, scores = rows()
    runs = [statistics_of(user, labels, each) for each in scores]
    counts = np.random.default_rng(2).integers(0, 3, (5, USERS)).astype(float)
    mean = mean_over_seeds(runs)
    assert mean.auc(counts) == pytest.approx(np.mean([run.auc(counts) for run in runs], axis=0))
    assert mean.uauc(counts) == pytest.approx(np.mean([run.uauc(counts) for run in runs], axis=0))


def test_groups_of_users_leave_the_metrics_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """With more users than groups, AUC and UAUC of all rows are exact; only resamples are coarser."""
    monkeypatch.setattr(users_module, "MOST_GROUPS", 7)
    user, labels, (scores, _) = rows()
    statistics = statistics_of(user, labels, scores)
    assert statistics.wins.shape == (7, 7)
    everyone = np.ones((1, 7))
    assert statistics.auc(everyone)[0] == pytest.approx(auc(scores, labels), abs=1e-12)
    assert statistics.uauc(everyone)[0] == pytest.approx(uauc(user, scores, labels)[0], abs=1e-12)


def test_resamples_are_the_same_users_for_all_systems() -> None:
    """The difference of two systems' resampled values is scipy's paired bootstrap of the difference."""
    user, labels, scores = rows()
    statistics = [statistics_of(user, labels, each) for each in scores]
    first, second = (resample(each, 200) for each in statistics)

    def auc_difference(draws: Any, axis: int) -> Any:
        counts = np.stack([np.bincount(each, minlength=USERS) for each in np.atleast_2d(draws)]).astype(float)
        return statistics[0].auc(counts) - statistics[1].auc(counts)

    expected = scipy.stats.bootstrap(
        (np.arange(USERS),), auc_difference, n_resamples=200, batch=500, vectorized=True, method="percentile",
        random_state=np.random.default_rng(0),
    )  # fmt: skip
    found = difference("auc", first, second)
    assert found is not None
    assert found.interval == pytest.approx(tuple(expected.confidence_interval))
    assert found.value == pytest.approx(auc(scores[0], labels) - auc(scores[1], labels))


def test_the_interval_touches_zero_at_the_level_of_the_p_value() -> None:
    """A p-value below 5 % means that the 95 % interval leaves zero out, and is never zero."""
    shifts = np.linspace(-3, 3, 61)
    for shift in shifts:
        values = np.random.default_rng(3).normal(shift, 1, 2000)
        bounds = interval(values)
        assert bounds is not None
        if (p := p_value(values)) < 0.045 or p > 0.055:  # between: it touches zero, up to rounding
            assert (p < 0.05) == (bounds.low > 0 or bounds.high < 0)
    assert p_value(np.full(99, 5.0)) == 2 / 100 and p_value(np.zeros(99)) == 1


def test_equal_systems_do_not_differ() -> None:
    """Two systems with the same scores have a difference of zero, a zero interval and p = 1."""
    user, labels, (scores, _) = rows()
    first, second = (resample(statistics_of(user, labels, scores), 99) for _ in range(2))
    for metric in ("auc", "uauc"):
        found = difference(metric, first, second)
        assert found is not None and found.value == 0 and tuple(found.interval) == (0, 0) and found.p == 1


def test_sign_flips_are_exact_for_few_users() -> None:
    """With five users who all favour the first system, 2 of the 32 sign patterns are as extreme: p = 1/16."""
    first, second = (
        Resampled({}, {}, np.array([value] * 5 + [0.0]), np.array([1.0] * 5 + [0.0])) for value in (0.8, 0.6)
    )
    assert sign_flip_p_value(first, second) == pytest.approx(1 / 16)


def test_one_label_leaves_the_metrics_undefined() -> None:
    """Without disliked rows there is no AUC, no interval and no difference, and no warning."""
    user, labels, scores = rows()
    first, second = (resample(statistics_of(user, np.ones_like(labels), each), 50) for each in scores)
    assert np.isnan(first.estimate["auc"]) and interval(first.values["auc"]) is None
    assert difference("auc", first, second) is None and difference("uauc", first, second) is None


def test_holm_is_that_of_its_definition_and_of_statsmodels() -> None:
    """The i-th smallest of m p-values is multiplied by m - i + 1, never falls below the one before, and stops at 1."""
    from statsmodels.stats.multitest import multipletests

    p_values = [0.04, 0.001, 0.6, 0.011, 0.5]
    assert holm(p_values) == pytest.approx([3 * 0.04, 5 * 0.001, 1.0, 4 * 0.011, 1.0])
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])
    assert holm([0.03, 0.029]) == pytest.approx([0.058, 0.058])
    assert holm([]) == []


def test_without_statsmodels_one_line_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the extra."""
    real_import = builtins.__import__

    def refuse(name: str, *arguments: Any, **options: Any) -> Any:
        if name.startswith("statsmodels"):
            raise ImportError(name)
        return real_import(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(SettingError, match=r"pip install 'recbole-cora\[report\]'"):
        holm([0.01])


def test_simulated_scores_have_the_true_metrics() -> None:
    """On 4,000 users, AUC and UAUC are those that the simulation states, to two decimals."""
    user, labels, scores = simulate(np.random.default_rng(4), 4000, (1.2, 0.9))
    for signal, each in zip((1.2, 0.9), scores, strict=True):
        assert auc(each, labels) == pytest.approx(true_metrics(signal)["auc"], abs=0.01)
        assert uauc(user, each, labels)[0] == pytest.approx(true_metrics(signal)["uauc"], abs=0.01)


@pytest.mark.slow
def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """95 % intervals of AUC, UAUC and of both differences cover the truth in 93 to 97 % of 400 simulations."""
    for name, share in coverage(400).items():
        assert 0.93 <= share <= 0.97, name


@pytest.mark.slow
def test_tests_reject_a_true_null_as_often_as_they_say() -> None:
    """Each test, at 5 %, finds a difference in 3 to 7 % of 1,200 simulations without one, and finds a real one."""
    for metric, share in rejections(1200).items():  # of 400, a share that is truly 5 % often leaves these bounds
        assert 0.03 <= share <= 0.07, metric
    assert all(share > 0.5 for share in rejections(50, signals=(1.3, 1.0)).values())
