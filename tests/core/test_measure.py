import json

import numpy as np
import pytest
import torch
from torch import nn

from core.measure import measure, measure_image


class Corner(nn.Module):
    """Sees the top left quarter only."""

    def __init__(self, classes=4):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, classes, generator=torch.Generator().manual_seed(0)))

    def forward(self, x):
        h, w = x.shape[2] // 2, x.shape[3] // 2
        return x[:, :, :h, :w].mean((2, 3)) @ self.weight


def picture(size=12, seed=1):
    return torch.randn(2, size, size, generator=torch.Generator().manual_seed(seed))


def shifted(image, r, c, boundary, m):
    """By definition, with NumPy."""
    x = image.numpy()
    h, w = x.shape[1:]
    if boundary == "circular":
        return np.roll(x, (r, c), (1, 2))
    if boundary == "crop":
        return x[:, m - r : h - m - r, m - c : w - m - c]
    out = np.zeros_like(x)
    for i in range(h):
        for j in range(w):
            if 0 <= i - r < h and 0 <= j - c < w:
                out[:, i, j] = x[:, i - r, j - c]
    return out


@pytest.mark.parametrize("boundary", ["circular", "zeros", "crop"])
@pytest.mark.parametrize("batch", [4, 64])
def test_each_entry_is_the_network_on_the_picture_shifted_so(boundary, batch):
    net, image, m = Corner(), picture(), 2
    got = measure_image(net, image, max_shift=m, boundary=boundary, batch_size=batch)
    logits = {
        (r, c): net(torch.from_numpy(shifted(image, r, c, boundary, m).copy())[None])[0].detach().double()
        for r in range(-m, m + 1)
        for c in range(-m, m + 1)
    }
    plain = logits[0, 0]
    for (r, c), own in logits.items():
        at = (m + r, m + c)
        assert got.prediction[at] == int(own.argmax())
        assert got.change[at] == pytest.approx(float((own - plain).abs().max() / plain.abs().max()), abs=1e-5)
        assert got.probability[at] == pytest.approx(float(own.softmax(0)[plain.argmax()]), abs=1e-6)
    assert got.unshifted == int(plain.argmax())
    assert got.change[m, m] == 0
    same = sum(int(own.argmax() == plain.argmax()) for own in logits.values()) - 1
    assert got.consistency == same / 24


def test_the_map_becomes_json():
    found = measure_image(Corner(), picture(), max_shift=1)
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["prediction"] == found.prediction.tolist()


@pytest.mark.parametrize(
    ("image", "options", "words"),
    [
        (torch.zeros(1, 2, 8, 8), {}, "picture is"),
        (torch.zeros(2, 8, 8), {"boundary": "mirror"}, "mirror"),
        (torch.zeros(2, 8, 8), {"max_shift": 0}, "at least 1"),
        (torch.zeros(2, 8, 8), {"max_shift": 4, "boundary": "crop"}, "8x8"),
    ],
)
def test_impossible_pictures_and_options_are_refused(image, options, words):
    with pytest.raises(ValueError, match=words):
        measure_image(Corner(), image, **options)


def test_a_network_that_gives_nan_is_refused():
    with pytest.raises(ValueError, match="not finite"):
        measure_image(Corner(), torch.full((2, 8, 8), float("nan")), max_shift=1)


def test_any_network_can_be_measured_on_tensors():
    net = Corner().train()
    images = torch.randn(30, 2, 8, 8, generator=torch.Generator().manual_seed(2))
    labels = net(images).argmax(1)
    labels[:10] = (labels[:10] + 1) % 4
    got = measure(net, images, labels, evaluations=("accuracy", "circular"), max_shift=2, repeats=2, batch_size=11)
    assert got["accuracy"] == 20 / 30
    assert 0 < got["circular_consistency"] < 1
    assert net.training


def test_without_labels_the_networks_own_class_counts_as_right():
    images = torch.randn(12, 2, 8, 8, generator=torch.Generator().manual_seed(2))
    got = measure(Corner(), images, evaluations=("accuracy", "all_shifts"), limit_all_shifts=12)
    assert "accuracy" not in got
    assert got["all_shifts_mean_accuracy"] == got["all_shifts_consistency"]
    assert got["all_shifts_accuracy_map"][0, 0] == 1


def test_labels_of_another_number_are_refused():
    with pytest.raises(ValueError, match=r"labels \(N,\)"):
        measure(Corner(), torch.zeros(3, 2, 8, 8), torch.zeros(2, dtype=torch.int64))


def test_a_network_that_gives_images_has_no_prediction_to_follow():
    with pytest.raises(ValueError, match="not a logit for each class"):
        measure_image(torch.nn.Identity(), torch.rand(1, 8, 8), max_shift=1)


def test_a_papers_protocol_is_refused_where_it_is_not_known():
    with pytest.raises(ValueError, match="protocol='authors' is a paper's"):
        measure(torch.nn.Flatten(), torch.zeros(2, 1, 4, 4), protocol="authors")
