"""Segmentation networks and detectors: maps and boxes that move with the image, and those that do not."""

import math
import statistics

import pytest
import torch
from torch import nn

from stillpoint.core.base.errors import UserError
from stillpoint.core.base.randomness import uniform_integers
from stillpoint.core.data.shifts import roll, shift_zeros
from stillpoint.core.evaluation.boxes import box_iou, matched, measure_boxes
from stillpoint.core.evaluation.dense import measure_maps
from stillpoint.core.evaluation.measure import measure
from stillpoint.core.metrics.segmentation_metrics import MapConsistency


def images(count=5, size=16, seed=0):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def segmenter(stride):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=stride, padding=1, padding_mode="circular"),
        nn.ReLU(),
        nn.Conv2d(6, 4, 1),
        nn.Upsample(scale_factor=stride) if stride > 1 else nn.Identity(),
    ).eval()


@pytest.mark.parametrize("boundary", ["circular", "zeros"])
def test_agreement_is_that_of_pixels_where_both_have_the_image(boundary):
    net, x, metric = segmenter(2), images(), MapConsistency(boundary=boundary, max_shift=3, repeats=2)
    for part in x.split(2):
        metric.update(net, part)
    move, fractions = (roll if boundary == "circular" else shift_zeros), []
    with torch.no_grad():
        plain = net(x).argmax(1)
        for repeat in range(2):
            shifts = uniform_integers(torch.arange(5), -3, 4, 2, "maps", 0, repeat)
            there = move(torch.ones(5, 1, 16, 16), shifts)[:, 0] > 0
            same = net(move(x, shifts)).argmax(1) == move(plain[:, None], shifts)[:, 0]
            fractions.append(int((same & there).sum()) / int(there.sum()))
    assert float(metric.compute()) == pytest.approx(sum(fractions) / 2, rel=1e-12)
    assert metric.variance == pytest.approx(statistics.pvariance(fractions), rel=1e-9)
    assert 0.3 < float(metric.compute()) < 1


def test_maps_of_a_dense_network_move_exactly_and_those_of_a_strided_one_do_not():
    dense, strided = measure(segmenter(1), images()), measure(segmenter(2), images())
    assert (dense["maps_agreement"], dense["maps_iou"], dense["maps_agreement_variance"]) == (1, 1, 0)
    assert strided["maps_agreement"] < 0.95 and strided["maps_iou"] < strided["maps_agreement"]
    assert dense["images"] == 5 and dense["classes_given"] == 4
    small = nn.Sequential(*list(segmenter(2))[:3])
    assert 0 < measure(small, images())["maps_agreement"] < 1


def test_labels_say_what_a_shift_costs():
    net, x = segmenter(2), images()
    with torch.no_grad():
        labels = net(x).argmax(1)
    labels[:, :2] = 255
    found = measure_maps(net, [(x[:3], labels[:3]), (x[3:], labels[3:])], max_shift=1, repeats=3)
    # right by construction without a shift, and as far from it as the maps are with one
    assert found["maps_miou"] == 1
    assert found["maps_shifted_miou"] < 1 and found["maps_miou_change"] == found["maps_shifted_miou"] - 1
    assert measure(net, x, labels)["maps_miou"] == 1


def test_maps_in_register_are_compared_as_they_are():
    metric = MapConsistency(classes=3)
    metric.update(torch.tensor([[[0, 1], [2, 2]]]), torch.tensor([[[0, 1], [2, 1]]]))
    assert float(metric.compute()) == 3 / 4
    assert metric.iou == pytest.approx((1 + 1 / 2 + 1 / 2) / 3)
    assert all(math.isnan(value) for value in metric.change)
    with pytest.raises(ValueError, match="classes=21"):
        _ = MapConsistency().iou
    with pytest.raises(ValueError, match="labels"):
        metric.update(torch.zeros(2, 3), torch.zeros(2, 3))


class Brightest(nn.Module):
    """A detector of bright squares: `step` is the grid that its boxes lie on."""

    def __init__(self, step=1):
        super().__init__()
        self.step = step

    def forward(self, x):
        found = []
        for image in x:
            boxes, scores, labels = [], [], []
            for label in (1, 2):
                places = (image[label - 1] > 0.5).nonzero()
                if len(places):
                    low, high = places.amin(0), places.amax(0) + 1
                    ends = [int(v) // self.step * self.step for v in (low[1], low[0], high[1], high[0])]
                    boxes.append(ends)
                    scores.append(0.9)
                    labels.append(label)
            shape = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
            found.append({"boxes": shape, "scores": torch.tensor(scores), "labels": torch.tensor(labels)})
        return found


def squares():
    x = torch.zeros(3, 3, 40, 40)
    x[0, 0, 10:20, 12:24], x[1, 1, 15:25, 15:25], x[2, 0, 14:22, 10:20], x[2, 1, 20:30, 21:31] = 1, 1, 1, 1
    return x


def test_boxes_that_move_with_the_image_are_matched_exactly():
    found = measure(Brightest(), squares())
    assert (found["boxes"], found["boxes_matched"], found["boxes_iou"], found["boxes_score_change"]) == (20, 1, 1, 0)
    coarse = measure_boxes(Brightest(4), [squares()])
    assert coarse["boxes"] == 20 and coarse["boxes_iou"] < 0.95 and coarse["boxes_matched"] > 0.5
    with pytest.raises(UserError, match="no box"):
        measure_boxes(Brightest(), [torch.zeros(1, 3, 40, 40)])


def test_the_settings_of_a_measurement_act_on_maps_and_boxes_too():
    net, x = segmenter(2), images()
    for edge, kind in (("circular", "circular"), ("zeros", "crop")):
        told = measure(net, x, evaluations=kind, max_shift=1, repeats=3)
        assert told == measure_maps(net, [(x, None)], boundary=edge, max_shift=1, repeats=3)
        assert told != measure(net, x, evaluations=kind)
    coarse = measure(Brightest(4), squares(), max_shift=4, repeats=2)
    assert coarse == measure_boxes(Brightest(4), [squares()], max_shift=4, repeats=2) and coarse["boxes"] == 8


@pytest.mark.parametrize("network", [segmenter(2), Brightest()])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"evaluations": "fractional"}, "the evaluation 'fractional' does not support .*: use circular or crop"),
        ({"evaluations": ("circular", "crop")}, "one of circular and crop at a time, not both"),
        ({"fractions": 4}, "the setting 'fractions' has no effect on .*: only max_shift and repeats do"),
    ],
)
def test_what_does_not_act_on_maps_and_boxes_is_refused(network, options, words):
    with pytest.raises(UserError, match=words):
        measure(network, squares(), **options)


def test_boxes_overlap_as_areas_do_and_are_used_once():
    first = torch.tensor([[0.0, 0.0, 4.0, 4.0], [10.0, 10.0, 12.0, 12.0]])
    second = torch.tensor([[0.0, 2.0, 4.0, 6.0], [0.0, 0.0, 4.0, 4.0], [20.0, 20.0, 21.0, 21.0]])
    ious = box_iou(first, second)
    assert ious.tolist() == [[pytest.approx(1 / 3), 1.0, 0.0], [0.0, 0.0, 0.0]]
    assert matched(ious, 0.5) == [(0, 1)]
    assert matched(torch.tensor([[0.9, 0.8], [0.8, 0.1]]), 0.5) == [(0, 0)]
    assert matched(torch.zeros(0, 3), 0.5) == []
