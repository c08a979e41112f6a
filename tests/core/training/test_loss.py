"""The loss of label maps, and what an epoch's sums make of them."""

import pytest
import torch
import torch.nn.functional as F

from stillpoint.core.base.distributed import Group
from stillpoint.core.base.errors import UserError
from stillpoint.core.config.schema import TrainConfig
from stillpoint.core.training.loss import Sums, criterion, pixel_losses


def maps() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of 5 classes on 3 images of 6x4 pixels, whose labels are none for 0, half and all of the pixels."""
    draws = torch.Generator().manual_seed(0)
    labels = torch.randint(5, (3, 6, 4), generator=draws)
    labels[1, :3], labels[2] = 255, 255
    return torch.randn(3, 5, 6, 4, generator=draws), labels


def test_an_images_loss_is_the_mean_over_its_labelled_pixels_or_over_all() -> None:
    logits, labels = maps()
    own = [F.cross_entropy(logits[k : k + 1], labels[k : k + 1], ignore_index=255) for k in (0, 1)]
    labelled = criterion(TrainConfig())(logits, labels)
    torch.testing.assert_close(labelled, own[0] + own[1])  # nothing of an image without a label
    whole = criterion(TrainConfig.model_validate({"PIXELS": "all"}))(logits, labels)
    torch.testing.assert_close(whole, own[0] + own[1] / 2)
    # the mean over the batch that the authors' default takes
    torch.testing.assert_close(whole / 3, F.cross_entropy(logits, labels, ignore_index=255, reduction="sum") / 72)


def test_a_batchs_loss_is_the_sum_of_its_parts() -> None:
    logits, labels = maps()
    for train in (TrainConfig(), TrainConfig.model_validate({"PIXELS": "all", "FOCAL_GAMMA": 2.0})):
        loss = criterion(train)
        parts = sum(loss(x, y) for x, y in zip(logits.split(1), labels.split(1), strict=True))
        torch.testing.assert_close(loss(logits, labels), parts)


def test_the_focal_loss_is_that_of_its_definition_for_pixels_and_for_images() -> None:
    logits, labels = maps()
    p = logits.softmax(1).gather(1, labels.clamp(max=4)[:, None])[:, 0]
    wanted = torch.where(labels == 255, 0.0, -((1 - p) ** 2) * p.log())
    torch.testing.assert_close(pixel_losses(logits, labels, gamma=2.0), wanted)
    images = criterion(TrainConfig.model_validate({"FOCAL_GAMMA": 2.0}))
    torch.testing.assert_close(images(logits[:, :, 0, 0], labels[:, 0, 0].clamp(max=4)), sum(_focal(logits, labels)))


def _focal(logits: torch.Tensor, labels: torch.Tensor) -> list[torch.Tensor]:
    found = []
    for one, label in zip(logits[:, :, 0, 0].softmax(1), labels[:, 0, 0].clamp(max=4).tolist(), strict=True):
        found.append(-((1 - one[label]) ** 2) * one[label].log())
    return found


def test_class_255_of_images_is_a_class() -> None:
    logits, labels = torch.zeros(2, 300), torch.tensor([255, 3])
    for gamma in (0.0, 1e-9):
        loss = criterion(TrainConfig.model_validate({"FOCAL_GAMMA": gamma}))(logits, labels)
        assert float(loss) == pytest.approx(2 * torch.tensor(300.0).log().item(), rel=1e-5)


def test_label_maps_of_another_size_are_refused_in_a_sentence() -> None:
    logits, labels = maps()
    with pytest.raises(UserError, match="the network returns maps of 6x4, but the label maps are 6x3"):
        criterion(TrainConfig())(logits, labels[:, :, 1:])
    with pytest.raises(UserError, match="the network returns maps of one class an image, but the label maps are 6x4"):
        criterion(TrainConfig())(logits[:, :, 0, 0], labels)


def test_accuracy_is_of_images_or_of_labelled_pixels_and_survives_a_state() -> None:
    logits, labels = maps()
    device = torch.device("cpu")
    alone = Group()
    sums = Sums(device)
    sums.add(torch.tensor(3.0), logits, labels)
    right = int((logits.argmax(1) == labels).sum())
    assert sums.all(alone) == (3.0, right, 3, 36) and sums.means(alone) == (1.0, right / 36)
    again = Sums(device)
    again.fill(*sums.all(alone))
    assert again.all(alone) == sums.all(alone)
    again.fill(3.0, 2, 4)  # of a state from before label maps
    assert again.means(alone) == (0.75, 0.5)
    images = Sums(device)
    images.add(torch.tensor(1.0), logits[:, :, 0, 0], labels[:, 0, 0] % 5)
    images.add(torch.tensor(1.0), logits, logits)  # of images there is no accuracy
    assert images.all(alone).judged == 3 and images.images == 6
