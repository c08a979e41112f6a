import pytest
import torch

from stillpoint import pipelines
from stillpoint.core.backbones.speednet import SpeedNet
from stillpoint.core.base.errors import UserError
from stillpoint.core.config.catalogue import info
from stillpoint.core.config.merge import merge
from stillpoint.pipelines.board.catalogue import LINES, models
from stillpoint.pipelines.board.config import Config
from stillpoint.pipelines.board.cost import network
from stillpoint.pipelines.board.models import build


def config(name: str, **own):
    return merge(Config, [{"MODEL": {"NAME": name, **models()[name].settings, **own}}])


@pytest.mark.parametrize("name", [name for name, line in LINES.items() if line.stem == "plain"])
def test_every_entry_with_a_plain_stem_is_a_speednet_too(name: str) -> None:
    model = config(name, ARCH="speednet", WIDTH=0.125).model
    torch.manual_seed(0)
    net = build(model, in_channels=1, num_classes=10, image_size=24)
    assert isinstance(net, SpeedNet) and net(torch.randn(2, 1, 24, 24)).shape == (2, 10)


def test_a_speednet_has_no_other_stem() -> None:
    with pytest.raises(UserError, match=r"MODEL\.STEM twin applies to ResNets: speednet has its own first layer"):
        config("twin", ARCH="speednet")


def test_networks_of_others_on_imagenet_are_timed_beside_a_resnet() -> None:
    own = pipelines.configure("board/strides", "imagenet")
    net = network(own, own.model)
    assert net.eval()(torch.randn(1, 3, 64, 64)).shape == (1, 1000)
    # what the streams of photographs cannot give is not asked of them
    assert own.evaluate.margin + 224 <= info("imagenet").resize and "all_shifts" not in own.evaluate.metrics
