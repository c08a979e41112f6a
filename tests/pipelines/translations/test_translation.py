"""The translation of a batch: uniform over all offsets, and exactly the slow definition image by image."""

import numpy as np
import torch
from scipy import stats

from stillpoint import pipelines
from stillpoint.core.base.randomness import generator
from stillpoint.core.data.augment import Augment, Crop
from stillpoint.core.data.build import augmentation
from stillpoint.core.data.loading import DeviceLoader
from stillpoint.core.data.sets import ImageSet

SIZE, PADDING, WINDOW = 28, 28, 56


def image_set(count=40):
    images = torch.randint(1, 256, (count, 1, SIZE, SIZE), generator=generator("images"), dtype=torch.uint8)
    return ImageSet(images, torch.arange(count) % 10, tuple("0123456789"), (0.1307,), (0.3081,), "noise", "digest")


def loader(batch, seed=0, shuffle=True, count=40):
    augment = Augment(((Crop(PADDING, WINDOW), "pixels"),))
    return DeviceLoader(image_set(count), batch, seed=seed, shuffle=shuffle, augment=augment)


def test_the_recipe_translates_in_training_and_in_testing():
    config = pipelines.configure("translations/TwoFullNet", "fashion_mnist")
    for training in (True, False):
        assert augmentation(config, training=training) == Augment(((Crop(PADDING, WINDOW), "pixels"),))


def test_offsets_are_uniform_over_all_of_them():
    draws = Crop(PADDING, WINDOW).draw(58_000, SIZE, SIZE, generator("uniform")).numpy()
    cells = np.bincount(draws[:, 0] * 29 + draws[:, 1], minlength=29 * 29)
    assert draws.min() == 0 and draws.max() == 28 and len(cells) == 29 * 29
    assert stats.chisquare(cells).pvalue > 1e-3
    # neighbouring images do not share their place
    assert abs(np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]) < 0.02
    assert abs(np.corrcoef(draws[:, 0], draws[:, 1])[0, 1]) < 0.02


def test_a_batch_is_the_slow_definition_exactly():
    source = loader(16, seed=3)
    crop = Crop(PADDING, WINDOW)
    for step, images, labels, indices in source.epoch(2):
        draws = crop.draw(len(labels), SIZE, SIZE, generator("augment", 3, 2, step)).tolist()
        for image, index, (top, left) in zip(images, indices.tolist(), draws, strict=True):
            canvas = np.zeros((SIZE + 2 * PADDING,) * 2, np.uint8)
            canvas[PADDING:-PADDING, PADDING:-PADDING] = source.image_set.images[index, 0].numpy()
            window = torch.from_numpy(canvas[top : top + WINDOW, left : left + WINDOW])
            assert torch.equal(image[0], source.normalise(window[None, None])[0, 0])
            torch.testing.assert_close(image[0], (window / 255 - 0.1307) / 0.3081)


def test_every_epoch_and_every_test_pass_has_translations_of_its_own():
    for shuffle in (True, False):
        source = loader(40, shuffle=shuffle)
        first, second = (
            dict(zip(b.indices.tolist(), b.images, strict=True)) for b in map(next, map(source.epoch, (0, 1)))
        )
        moved = [k for k in first if not torch.equal(first[k], second[k])]
        assert len(moved) > 30


def test_a_test_pass_does_not_depend_on_the_size_of_a_batch():
    whole = torch.cat([batch.images for batch in loader(40, shuffle=False).epoch(4)])
    for size in (1, 7, 32):
        assert torch.equal(torch.cat([batch.images for batch in loader(size, shuffle=False).epoch(4)]), whole)


def test_the_canvas_holds_every_window():
    source = loader(40, shuffle=False)
    batch = next(source.epoch(0))
    canvas = source.canvas(batch.indices)
    assert canvas.shape == (40, 1, 84, 84)
    draws = Crop(PADDING, WINDOW).draw(40, SIZE, SIZE, generator("augment", 0, 0)).tolist()
    for image, whole, (top, left) in zip(batch.images, canvas, draws, strict=True):
        assert torch.equal(image, whole[:, top : top + WINDOW, left : left + WINDOW])
