"""Laws of AUC, UAUC and LogLoss."""

import numpy as np
from sklearn.metrics import log_loss, roc_auc_score

from recbole_cora.metrics import auc, logloss, uauc


def _rows(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    users, labels = random.integers(0, 40, 300), random.integers(0, 2, 300).astype(float)
    labels[users < 5] = 1.0  # some users with one class only
    return users, np.round(random.normal(size=300), 1), labels  # rounded: ties


def test_auc_equals_scikit_learn_ties_included() -> None:
    """AUC equals scikit-learn's, which counts ties as half."""
    _, scores, labels = _rows(0)
    assert abs(auc(scores, labels) - roc_auc_score(labels, scores)) < 1e-12


def test_uauc_equals_a_loop_over_users() -> None:
    """UAUC is the unweighted mean of scikit-learn's AUC over the users with both classes, and counts them."""
    users, scores, labels = _rows(1)
    values = [
        roc_auc_score(labels[users == u], scores[users == u])
        for u in np.unique(users)
        if len(np.unique(labels[users == u])) == 2
    ]
    value, count = uauc(users, scores, labels)
    assert count == len(values) <= 35
    assert abs(value - np.mean(values)) < 1e-12


def test_one_class_has_no_auc() -> None:
    """AUC is NaN if one class is absent; UAUC is NaN if every user lacks a class, and for no rows at all."""
    ones = np.ones(4)
    assert np.isnan(auc(np.arange(4.0), ones))
    assert np.isnan(uauc(np.arange(4), np.arange(4.0), ones)[0])
    assert np.isnan(uauc(np.arange(0), np.arange(0.0), np.ones(0))[0])


def test_logloss_takes_logits_for_logits() -> None:
    """LogLoss of logits equals scikit-learn's log loss of their sigmoids."""
    _, scores, labels = _rows(2)
    assert abs(logloss(scores, labels, logits=True) - log_loss(labels, 1 / (1 + np.exp(-scores)))) < 1e-9
