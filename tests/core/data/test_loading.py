import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stillpoint.core.base.randomness import generator
from stillpoint.core.data.augment import Augment, TurningFlip, build_augment
from stillpoint.core.data.loading import DeviceLoader
from stillpoint.core.data.sets import ImageSet

AUGMENT = build_augment([{"name": "crop", "padding": 2}, {"name": "flip"}, {"name": "roll", "per": "batch"}])


def image_set(count: int = 23, channels: int = 3) -> ImageSet:
    pixels = torch.randint(0, 256, (count, channels, 8, 6), dtype=torch.uint8, generator=generator("images"))
    mean, std = (0.5, 0.4, 0.3)[:channels], (0.2, 0.3, 0.4)[:channels]
    return ImageSet(pixels, torch.arange(count) % 10, tuple("0123456789"), mean, std, "test", "digest")


def test_an_epoch_gives_every_image_once_normalised_with_its_label_and_number() -> None:
    images = image_set()
    loader = DeviceLoader(images, 5, shuffle=True)
    batches = list(loader.epoch(0))
    assert [batch.step for batch in batches] == list(range(len(loader))) == [0, 1, 2, 3, 4]
    indices = torch.cat([batch.indices for batch in batches])
    assert sorted(indices.tolist()) == list(range(23)) and indices.tolist() != list(range(23))
    assert torch.equal(torch.cat([batch.labels for batch in batches]), images.labels[indices])
    mean, std = (torch.tensor(v)[:, None, None] for v in (images.mean, images.std))
    expected = (images.images[indices] / 255 - mean) / std
    torch.testing.assert_close(torch.cat([batch.images for batch in batches]), expected, atol=1e-6, rtol=1e-6)


def test_without_shuffling_images_come_in_order_and_own_statistics_win() -> None:
    images = image_set(channels=1)
    (batch,) = DeviceLoader(images, 100, mean=(0.0,), std=(1.0,)).epoch(3)
    assert batch.indices.tolist() == list(range(23))
    torch.testing.assert_close(batch.images, images.images / 255)


@given(st.integers(0, 5), st.integers(0, 3), st.integers(0, 3))
@settings(max_examples=15, deadline=None)
def test_starting_at_a_step_gives_what_the_whole_epoch_gave(start: int, epoch: int, seed: int) -> None:
    loader = DeviceLoader(image_set(), 5, seed=seed, shuffle=True, augment=AUGMENT)
    whole, rest = list(loader.epoch(epoch)), list(loader.epoch(epoch, start))
    assert len(rest) == 5 - start
    for ours, theirs in zip(whole[start:], rest, strict=True):
        assert ours.step == theirs.step
        assert all(torch.equal(a, b) for a, b in zip(ours[1:], theirs[1:], strict=True))


def test_global_generators_are_neither_used_nor_changed() -> None:
    loader = DeviceLoader(image_set(), 5, shuffle=True, augment=AUGMENT)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = [batch.images for batch in loader.epoch(0)]
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert all(torch.equal(a, b.images) for a, b in zip(first, loader.epoch(0), strict=True))


def test_epochs_and_seeds_differ() -> None:
    orders = [DeviceLoader(image_set(), 5, seed=s, shuffle=True).order(e).tolist() for s in (0, 1) for e in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4
    draws = [
        next(DeviceLoader(image_set(), 23, seed=s, augment=AUGMENT).epoch(e)).images for s in (0, 1) for e in (0, 1)
    ]
    assert all(not torch.equal(a, b) for i, a in enumerate(draws) for b in draws[:i])


@given(st.integers(1, 30), st.integers(1, 12), st.integers(1, 5), st.booleans())
@settings(max_examples=25, deadline=None)
def test_processes_together_see_the_batches_of_one(count: int, batch: int, world: int, drop_last: bool) -> None:
    if drop_last and count < batch:
        return
    options = {"seed": 3, "shuffle": True, "augment": AUGMENT, "drop_last": drop_last}
    alone = list(DeviceLoader(image_set(count), batch, **options).epoch(2))
    loaders = [DeviceLoader(image_set(count), batch, rank=r, world_size=world, **options) for r in range(world)]
    together = list(zip(*(loader.epoch(2) for loader in loaders), strict=True))
    assert len(together) == len(alone) == len(loaders[0])
    for step, (one, parts) in enumerate(zip(alone, together, strict=True)):
        for field in ("images", "labels", "indices"):
            assert torch.equal(torch.cat([getattr(part, field) for part in parts]), getattr(one, field))
        sizes = [len(part.labels) for part in parts]
        assert max(sizes) - min(sizes) <= 1 and sum(sizes) == loaders[0].global_size(step)


def test_drop_last_leaves_the_rest_out() -> None:
    loader = DeviceLoader(image_set(), 5, drop_last=True)
    assert len(loader) == 4 and [len(batch.labels) for batch in loader.epoch(0)] == [5] * 4


def test_channels_last_is_a_matter_of_memory_alone() -> None:
    plain, last = (DeviceLoader(image_set(), 23, augment=AUGMENT, channels_last=c) for c in (False, True))
    a, b = next(plain.epoch(0)).images, next(last.epoch(0)).images
    assert b.is_contiguous(memory_format=torch.channels_last) and torch.equal(a, b)


def test_an_epoch_does_not_change_the_images() -> None:
    images = image_set()
    before = images.images.clone()
    list(DeviceLoader(images, 5, augment=AUGMENT).epoch(0))
    assert torch.equal(images.images, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size 0: at least 1"),
        ({"batch_size": 24, "drop_last": True}, "leaves no batch of 23 images"),
        ({"batch_size": 4, "rank": 2, "world_size": 2}, "rank 2 of 2 processes"),
    ],
)
def test_impossible_loaders_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DeviceLoader(image_set(), **options)


def flipped(loader: DeviceLoader, epoch: int) -> dict[int, bool]:
    """Whether each image is mirrored in an epoch."""
    found = {}
    for batch in loader.epoch(epoch):
        plain = loader.normalise(loader.images[batch.indices])
        for number, image, own in zip(batch.indices.tolist(), batch.images, plain, strict=True):
            found[number] = torch.equal(image, own.flip(2))
            assert found[number] or torch.equal(image, own)
    return found


TURNING = Augment(((TurningFlip(0.5), "pixels"),))


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_turning_flip_is_drawn_once_for_an_image_and_then_alternates(shuffle: bool) -> None:
    loader = DeviceLoader(image_set(60), 7, seed=3, shuffle=shuffle, augment=TURNING)
    first, second, third = (flipped(loader, epoch) for epoch in range(3))
    assert 15 < sum(first.values()) < 45
    assert all(second[number] is not first[number] for number in first) and third == first


def test_a_turning_flip_depends_on_seed_and_image_alone() -> None:
    def made(**options) -> dict[int, bool]:
        return flipped(DeviceLoader(image_set(60), augment=TURNING, **{"batch_size": 7, "seed": 3, **options}), 1)

    want = made(shuffle=True)
    assert made(batch_size=13, shuffle=True) == want == made(shuffle=False)
    parts = [made(shuffle=True, rank=rank, world_size=2) for rank in (0, 1)]
    assert parts[0] | parts[1] == want and not parts[0].keys() & parts[1].keys()
    assert made(seed=4) != want


def test_a_sample_is_the_first_of_the_order_without_augmentation() -> None:
    loader = DeviceLoader(image_set(), 5, seed=2, shuffle=True, augment=TURNING)
    assert torch.equal(loader.sample(7), loader.normalise(loader.images[loader.order(0)[:7]]))
