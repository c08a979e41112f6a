import numpy as np
import pytest
import torch

from stillpoint.core.base.errors import UserError
from stillpoint.core.config.catalogue import DATASETS
from stillpoint.core.config.schema import EvaluateConfig
from stillpoint.core.evaluation.engine import evaluate
from stillpoint.core.evaluation.measure import InMemory
from stillpoint.core.evaluation.registry import EVALUATIONS
from stillpoint.pipelines.aps.config import Config, Model
from stillpoint.pipelines.aps.evaluate import (
    AUTHORS,
    AUTHORS_IMAGENET,
    AuthorsPairs,
    batch_mean,
    evaluations,
    torch_topk_correct,
)
from stillpoint.pipelines.aps.models import build


class Place(torch.nn.Module):
    """Exact for whole numbers, and sensitive to place."""

    def forward(self, x):
        weight = torch.randint(-3, 4, (x[0].numel(), 10), generator=torch.Generator().manual_seed(0)).float()
        return x.flatten(1) @ weight


def images(count=23):
    random = torch.Generator().manual_seed(0)
    return torch.randint(-5, 6, (count, 2, 12, 12), generator=random).float(), torch.arange(count) % 10


def test_the_first_pairs_are_those_of_the_papers_code():
    cifar = AuthorsPairs(EvaluateConfig(max_shift=3), 0)
    assert [cifar.draw() for _ in range(3)] == [[[1, 2], [-3, 0]], [[0, 0], [-2, 0]], [[2, -1], [1, -3]]]
    imagenet = AuthorsPairs(EvaluateConfig(max_shift=32), 7)
    assert [imagenet.draw() for _ in range(2)] == [[[12, 15], [21, -32]], [[-29, 27], [-29, 7]]]


def test_batches_count_alike_in_the_cifar_form_and_by_size_in_imagenets():
    assert batch_mean([0.5, 1.0], [3, 1], weighted=False) == 0.75
    assert batch_mean([0.5, 1.0], [3, 1], weighted=True) == 0.625


@pytest.mark.parametrize(("forms", "weighted"), [(AUTHORS, False), (AUTHORS_IMAGENET, True)])
def test_every_evaluation_repeats_the_draws_batch_by_batch(forms, weighted):
    (x, labels), net = images(), Place()
    config = EvaluateConfig(metrics=("accuracy", "circular", "crop", "erase", "flips"), erase=(4,), max_shift=2)
    got = evaluate(net, InMemory(x, labels, 8), config, evaluations=forms)
    sizes = [8, 8, 7]

    def wanted(change, move, draws_corner=False):
        random, same, right = np.random.RandomState(0), [], []
        for part, label in zip(x.split(8), labels.split(8), strict=True):
            part = part.clone()
            if draws_corner:
                row, column = random.randint(0, 12 - 3 - 4, 2)
                part[:, :, row : row + 4, column : column + 4] = 0
            part = change(part)
            shifts = [tuple(random.randint(-2, 2, 2).tolist()) for _ in range(2)]
            first, second = (net(move(part, shift)).argmax(1) for shift in shifts)
            same.append(float((first == second).double().mean()))
            right.append(float((net(part).argmax(1) == label).double().mean()))
        return batch_mean(right, sizes, weighted=weighted), batch_mean(same, sizes, weighted=weighted)

    def roll(part, shift):
        return part.roll(shift, (2, 3))

    def crop(part, shift):
        r, c = 2 + shift[0], 2 + shift[1]
        return torch.nn.functional.pad(part, (2, 2, 2, 2))[:, :, r : r + 12, c : c + 12]

    plain = wanted(lambda part: part, roll)
    assert (got["accuracy"], got["circular_consistency"]) == plain
    assert got["crop_consistency"] == wanted(lambda part: part, crop)[1]
    assert (got["flips_accuracy"], got["flips_consistency"]) == wanted(lambda part: part.flip(2, 3), roll)
    assert (got["erase4_accuracy"], got["erase4_consistency"]) == wanted(lambda part: part, roll, draws_corner=True)


def test_topk_of_torch_and_ours_agree_without_ties():
    from stillpoint.core.metrics import topk_correct

    logits = torch.randn(50, 12, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(50) % 12
    assert torch.equal(torch_topk_correct(logits, labels), topk_correct(logits, labels, (1, 5)))


def test_the_protocol_and_the_data_set_choose_the_form():
    def chosen(protocol, dataset):
        return evaluations(
            Config.model_validate(
                {"DATA": {"NAME": dataset}, "TRAIN": {"KEEP": "last"}, "EVALUATE": {"PROTOCOL": protocol}}
            )
        )

    assert chosen("stillpoint", "cifar10") == EVALUATIONS
    assert chosen("authors", "cifar10")["circular"] is AUTHORS["circular"]
    assert chosen("authors", "imagenet")["circular"] is AUTHORS_IMAGENET["circular"]
    assert chosen("authors", "cifar10")["all_shifts"] is EVALUATIONS["all_shifts"]
    assert "imagenet" in DATASETS


def test_a_square_that_leaves_no_place_is_refused():
    config = EvaluateConfig(metrics=("erase",), erase=(9,))
    with pytest.raises(UserError, match="erase squares of 9 pixels"):
        evaluate(Place(), InMemory(*images(), 8), config, evaluations=AUTHORS)
    with pytest.raises(UserError, match=r"EVALUATE\.ERASE"):
        evaluate(Place(), InMemory(*images(), 8), EvaluateConfig(metrics=("erase",)), evaluations=AUTHORS)


@pytest.mark.parametrize("size", [1, 3])
def test_an_untrained_aps_network_is_exactly_consistent_and_its_logits_do_not_move(size):
    torch.manual_seed(0)
    section = Model(arch="resnet20", downsample="polyphase", filter_size=size, width=0.5)
    net = build(section, in_channels=1, num_classes=10, image_size=16)
    x = torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    config = EvaluateConfig(metrics=("circular", "all_shifts"), max_shift=8, repeats=3, limit_all_shifts=1)
    got = evaluate(net, InMemory(x, torch.arange(4), 4), config)
    assert got["circular_consistency"] == got["all_shifts_consistency"] == got["all_shifts_always_consistent"] == 1.0
    assert got["circular_max_logit_change"] < 1e-5
    assert got["all_shifts_max_logit_change"] < 1e-5


def test_the_plain_network_moves_its_logits_where_aps_does_not():
    torch.manual_seed(0)
    net = build(Model(arch="resnet20", width=0.5), in_channels=1, num_classes=10, image_size=16)
    x = torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    got = evaluate(net, InMemory(x, torch.arange(4), 4), EvaluateConfig(metrics=("circular",)))
    assert got["circular_max_logit_change"] > 1e-3
