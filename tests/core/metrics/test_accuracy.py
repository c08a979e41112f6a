import numpy as np
import pytest
import torch

from stillpoint.core.metrics import topk_accuracy, topk_correct


def test_topk_is_a_stable_sort_by_falling_logit():
    random = np.random.RandomState(0)
    logits = random.randint(0, 4, (200, 12)).astype(np.float32)  # many ties
    labels = random.randint(0, 12, 200)
    ranks = np.argsort(-logits, axis=1, kind="stable")
    wanted = [[label in row[:k] for k in (1, 3, 12, 20)] for row, label in zip(ranks, labels, strict=True)]
    got = topk_correct(torch.from_numpy(logits), torch.from_numpy(labels), (1, 3, 12, 20))
    assert got.tolist() == wanted
    assert topk_accuracy(torch.from_numpy(logits), torch.from_numpy(labels), (1, 3)).tolist() == pytest.approx(
        np.mean(wanted, 0)[:2].tolist(), abs=1e-15
    )


def test_top1_is_the_argmax_on_ties():
    logits = torch.zeros(5, 3)
    assert topk_correct(logits, torch.tensor([0, 1, 2, 0, 1]))[:, 0].tolist() == [True, False, False, True, False]


def test_nan_is_never_correct():
    logits = torch.tensor([[float("nan"), 1.0], [0.0, float("nan")], [0.0, 1.0]])
    assert topk_correct(logits, torch.tensor([0, 1, 1]), (1, 2)).tolist() == [[False] * 2, [False] * 2, [True] * 2]


@pytest.mark.parametrize("k", [(), (0,), (1, -2)])
def test_impossible_k_is_refused(k):
    with pytest.raises(ValueError, match="k must be"):
        topk_correct(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), k)


def test_labels_of_another_length_are_refused():
    with pytest.raises(ValueError, match=r"\(3,\)"):
        topk_correct(torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64))
