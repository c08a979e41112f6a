import math

import pytest
import torch

from stillpoint.core.metrics import SegmentationScores
from stillpoint.core.metrics.segmentation import confusion_matrix, label_agreement, segmentation_scores


def maps(classes=4, seed=0):
    draws = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (3, 9, 7), generator=draws)
    predicted = torch.where(torch.rand(3, 9, 7, generator=draws) < 0.6, labels, labels.roll(1, 0))
    labels[0, :2] = 255
    return predicted, labels


def test_the_matrix_counts_valid_pixels_by_label_and_prediction():
    predicted, labels = maps()
    matrix = confusion_matrix(predicted, labels, classes=4)
    assert matrix.dtype == torch.int64 and matrix.sum() == (labels != 255).sum()
    for i in range(4):
        for j in range(4):
            assert matrix[i, j] == ((labels == i) & (predicted == j)).sum()


def test_scores_are_those_of_the_definition_and_a_missing_class_is_left_out():
    predicted, labels = maps()
    matrix = confusion_matrix(predicted, labels, classes=6)
    valid, scores = labels != 255, segmentation_scores(matrix)
    ious, accuracies = [], []
    for c in range(4):
        hit = ((labels == c) & (predicted == c) & valid).sum().item()
        true, found = ((labels == c) & valid).sum().item(), ((predicted == c) & valid).sum().item()
        ious.append((true, hit / (true + found - hit)))
        accuracies.append(hit / true)
    total = valid.sum().item()
    assert scores == pytest.approx({
        "pixel_accuracy": ((labels == predicted) & valid).sum().item() / total,
        "mean_accuracy": sum(accuracies) / 4,
        "mean_iou": sum(iou for _, iou in ious) / 4,
        "frequency_weighted_iou": sum(n / total * iou for n, iou in ious),
    })  # fmt: skip


def test_the_mean_iou_is_that_of_the_classes_that_occur_and_nan_of_none():
    labels, predicted = torch.tensor([0, 0, 1, 1, 2]), torch.tensor([0, 1, 1, 1, 2])
    matrix = confusion_matrix(predicted, labels, classes=5)
    assert matrix.tolist()[0] == [1, 1, 0, 0, 0]
    assert segmentation_scores(matrix)["mean_iou"] == pytest.approx((1 / 2 + 2 / 3 + 1) / 3)
    assert math.isnan(segmentation_scores(torch.zeros(3, 3, dtype=torch.int64))["mean_iou"])


def test_the_metric_counts_over_batches_and_brings_small_maps_to_size():
    predicted, labels = maps()
    metric = SegmentationScores(4)
    for part, right in zip(predicted.split(2), labels.split(2), strict=True):
        metric.update(torch.nn.functional.one_hot(part, 4).permute(0, 3, 1, 2).float(), right)
    assert metric.scores == segmentation_scores(confusion_matrix(predicted, labels, classes=4))
    assert float(metric.compute()) == metric.scores["mean_iou"]
    small = SegmentationScores(2)
    small.update(torch.tensor([[[[1.0]], [[0.0]]]]), torch.tensor([[[0, 0], [0, 255]]]))
    assert small.matrix.tolist() == [[3, 0], [0, 0]]


def test_the_authors_transposed_matrix_gives_the_precision():
    matrix = torch.tensor([[8, 2], [0, 90]])
    ours, theirs = segmentation_scores(matrix), segmentation_scores(matrix, transposed=True)
    assert ours["mean_accuracy"] == pytest.approx((0.8 + 1) / 2)
    assert theirs["mean_accuracy"] == pytest.approx((1 + 90 / 92) / 2)
    assert ours["mean_iou"] == theirs["mean_iou"] and ours["pixel_accuracy"] == theirs["pixel_accuracy"]
    assert ours["frequency_weighted_iou"] != theirs["frequency_weighted_iou"]


@pytest.mark.parametrize("shift", [(2, -3), (0, 4), (-1, 0)])
def test_labels_that_move_with_the_image_agree(shift):
    labels = torch.randint(0, 5, (2, 12, 10))
    assert label_agreement(labels, labels.roll(shift, (1, 2)), shift).tolist() == [1.0, 1.0]
    assert label_agreement(labels, labels, shift).max() < 0.5
    lost = torch.full((2, 12, 10), 9)
    (i, j) = shift
    lost[:, max(i, 0) : 12 + min(i, 0), max(j, 0) : 10 + min(j, 0)] = labels[
        :, max(-i, 0) : 12 - max(i, 0), max(-j, 0) : 10 - max(j, 0)
    ]
    assert label_agreement(labels, lost, shift, circular=False).tolist() == [1.0, 1.0]


def test_maps_that_do_not_fit_are_refused():
    predicted, labels = maps()
    with pytest.raises(ValueError, match=r"predicted maps of shape \(3, 9, 6\) for labels of shape \(3, 9, 7\)"):
        confusion_matrix(predicted[..., 1:], labels, classes=4)
    with pytest.raises(ValueError, match="labels must lie between 0 and 2, or be 255, got 0 to 3"):
        confusion_matrix(predicted, labels, classes=3)
    with pytest.raises(ValueError, match="label maps"):
        label_agreement(predicted, labels[:2], (0, 0))
    with pytest.raises(ValueError, match=r"a shift of \(9, 0\) leaves nothing of maps of 9x7"):
        label_agreement(predicted, predicted, (9, 0), circular=False)
