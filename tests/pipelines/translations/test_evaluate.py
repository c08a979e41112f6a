import pytest
import torch

from stillpoint import pipelines
from stillpoint.core.base.errors import UserError
from stillpoint.core.base.randomness import uniform_integers
from stillpoint.core.data.augment import Augment, Crop
from stillpoint.core.data.loading import DeviceLoader
from stillpoint.core.data.sets import ImageSet
from stillpoint.core.evaluation.engine import evaluate

pytestmark = pytest.mark.filterwarnings("error")
COUNT, SIZE, PADDING, WINDOW = 24, 4, 4, 8


class Brightest(torch.nn.Module):
    """Says in which quarter of the window the brightest pixel is, the first of equally bright ones."""

    def __init__(self):
        super().__init__()
        self.fc1 = torch.nn.Linear(WINDOW * WINDOW, 4, bias=False)

    def forward(self, x):
        place = x.flatten(1).argmax(1)
        row, column = place // WINDOW, place % WINDOW
        quarter = 2 * (row >= WINDOW // 2).long() + (column >= WINDOW // 2).long()
        return torch.nn.functional.one_hot(quarter, 4).float() + 0 * self.fc1(x.flatten(1))


def image_set():
    images = torch.zeros(COUNT, 1, SIZE, SIZE, dtype=torch.uint8)
    images[:, :, 1, 2] = 200
    labels = torch.arange(COUNT) % 4
    return ImageSet(images, labels, tuple("abcd"), (0.5,), (0.5,), "point", "digest")


def found(batch, *metrics, canvas=True, repeats=2):
    pairs = ["EVALUATE.METRICS", str(list(metrics))]
    if "translated" in metrics:  # no other of them draws anything
        pairs += ["EVALUATE.REPEATS", str(repeats)]
    config = pipelines.configure("translations/TwoFullNet", "digits", pairs)
    augment = Augment(((Crop(PADDING, WINDOW), "pixels"),)) if canvas else None
    data = DeviceLoader(image_set(), batch, augment=augment)
    return evaluate(
        Brightest(), data, config.evaluate, seed=5, evaluations=pipelines.paper(config.pipeline).evaluations(config)
    )


def test_consistency_under_translation_is_its_definition():
    same = right = 0
    for repeat in range(2):
        rows, columns = (
            uniform_integers(torch.arange(COUNT), 0, SIZE + 2 * PADDING - WINDOW + 1, 2, "translated", axis, 5, repeat)
            for axis in (0, 1)
        )
        # the pixel is at (5, 6) of the canvas, and may be cut off; the first place is then the brightest
        row, column = PADDING + 1 - rows, PADDING + 2 - columns
        inside = (row >= 0) & (row < WINDOW) & (column >= 0) & (column < WINDOW)
        quarter = torch.where(inside, 2 * (row >= 4).long() + (column >= 4).long(), 0)
        same += (quarter[:, 0] == quarter[:, 1]).sum().item()
        right += (quarter == (torch.arange(COUNT) % 4)[:, None]).sum().item()
    result = found(7, "translated")
    assert result["translated_consistency"] == same / (2 * COUNT)
    assert result["translated_accuracy"] == right / (4 * COUNT)


def test_results_do_not_depend_on_the_size_of_a_batch():
    names = ("accuracy", "translated", "confusion", "samples")
    first, second = found(5, *names), found(COUNT, *names)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]) if isinstance(value, torch.Tensor) else value == second[name]


def test_confusion_counts_every_image_once_and_agrees_with_the_accuracy():
    result = found(5, "accuracy", "confusion")
    counts = result["confusion_counts"]
    assert counts.sum(1).tolist() == [COUNT // 4] * 4
    assert counts.diagonal().sum().item() / COUNT == result["accuracy"]


def test_samples_are_the_first_images_of_each_class_as_the_network_sees_them():
    grid = found(5, "samples")["samples_grid"]
    batch = next(DeviceLoader(image_set(), COUNT, augment=Augment(((Crop(PADDING, WINDOW), "pixels"),))).epoch(0))
    for label in range(4):
        assert torch.equal(grid[label], batch.images[batch.labels == label][:4, 0])


def test_images_without_a_canvas_are_refused():
    with pytest.raises(UserError, match=r"set AUGMENT\.CANVAS_PADDING"):
        found(5, "translated", canvas=False)


def test_another_protocol_is_refused():
    with pytest.raises(UserError, match="translations has only one protocol"):
        pipelines.configure("translations/TwoFullNet", "digits", ["EVALUATE.PROTOCOL", "authors"])
