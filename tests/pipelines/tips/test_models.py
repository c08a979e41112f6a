import pytest
import torch

from stillpoint.core.layers.translation_losses import evenness_penalty, undoing_losses, watch
from stillpoint.pipelines.tips.models import POOLS, classifier, pool_factory
from stillpoint.pipelines.tips.training import authors_warmup, objective


@pytest.mark.parametrize(
    ("arch", "num_down", "classes", "tips", "other"),
    [
        ("resnet18", 3, 10, 11_187_402, 11_173_962),
        ("resnet18", 4, 10, 11_192_906, 11_178_186),
        ("resnet18", 5, 10, 11_193_546, 11_178_186),
        ("resnet34", 3, 10, 21_295_562, 21_282_122),
        ("resnet34", 5, 10, 21_301_706, 21_286_346),
        ("resnet50", 4, 10, 23_549_002, 23_520_842),
        ("resnet50", 5, 10, 23_549_642, None),
        ("resnet101", 4, 10, 42_541_130, 42_512_970),
        ("resnet101", 5, 10, 42_541_770, None),
        ("resnet18", 5, 200, 11_291_016, None),
        ("resnet50", 5, 200, 23_938_952, None),
    ],
)
def test_parameters_are_the_authors(arch, num_down, classes, tips, other):
    with torch.device("meta"):
        for pool in POOLS:
            want = tips if pool == "tips" else other
            if want is not None:
                net = classifier(arch, pool_factory(pool), num_down=num_down, num_classes=classes)
                assert sum(p.numel() for p in net.parameters()) == want, pool


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize(("num_down", "side"), [(3, 32), (4, 32), (5, 64)])
def test_the_map_is_halved_as_often_as_asked(pool, num_down, side):
    net = classifier("resnet18", pool_factory(pool), num_down=num_down).eval()
    assert net.forward_features(torch.randn(1, 3, side, side)).shape[2] == side // 2**num_down


def test_shortcuts_have_layers_and_weights_of_their_own():
    net = classifier("resnet18", pool_factory("tips"), num_down=5)
    with watch(net) as seen:
        net(torch.randn(2, 3, 64, 64))
    assert [r.x.shape[1:] for r in seen] == [
        torch.Size(s)
        for s in (
            (64, 64, 64), (64, 32, 32), (64, 32, 32), (128, 16, 16), (64, 16, 16),
            (256, 8, 8), (128, 8, 8), (512, 4, 4), (256, 4, 4),
        )
    ]  # fmt: skip
    assert net.layer2[0].pool.psi.weight.shape[0] == 128 and net.layer2[0].downsample.pool.psi.weight.shape[0] == 64
    losses = undoing_losses(seen, shifts=[(1, 0)] * 9, kind="circular")
    assert losses.shape == (5,) and 0 < evenness_penalty(seen) <= 0.5


@pytest.mark.parametrize(("arch", "num_down"), [("resnet18", 2), ("resnet18", 6), ("resnet50", 3)])
def test_a_number_of_halvings_that_a_network_cannot_have_is_refused(arch, num_down):
    with pytest.raises(ValueError, match=rf"num_down must be [34] to 5 for {arch}, got {num_down}"):
        classifier(arch, pool_factory("tips"), num_down=num_down)
    with pytest.raises(ValueError, match="tips, max, average, blur, channel_polyphase, got 'aps'"):
        pool_factory("aps")


def test_the_auxiliary_loss_sleeps_and_the_task_counts_the_same_before():
    task, aux, evenness = torch.tensor(2.0), torch.tensor([1.0, 3.0]), torch.tensor(0.4)
    asleep = objective(task, aux, evenness, alpha=0.35, awake=False)
    assert asleep.item() == pytest.approx(0.4 + 0.65 * 2)
    assert objective(task, aux, evenness, alpha=0.35, awake=True).item() == pytest.approx(asleep.item() + 0.35 * 2)


def test_the_authors_warm_up_begins_at_a_hundredth():
    rates = [authors_warmup(0.04, n // 3, n % 3, 3, at_end=0.04) for n in range(36)]
    assert rates[0] == 0.01 and rates[15] == pytest.approx(0.025) and rates[30:] == [0.04] * 6
