import pytest
import torch
from pydantic import ValidationError

from stillpoint.core.base.errors import UserError
from stillpoint.core.layers import LearnablePolyphaseDownsample2d
from stillpoint.core.training.hooks import Moment
from stillpoint.core.training.optim import optimizer
from stillpoint.pipelines.lps.catalogue import models
from stillpoint.pipelines.lps.config import Config, Train
from stillpoint.pipelines.lps.models import build
from stillpoint.pipelines.lps.training import hooks, temperature


def config(name="resnet20_lps3", **train):
    return Config.model_validate({"MODEL": {**models()[name].settings, "WIDTH": 0.25}, "TRAIN": train})


def built(settings):
    torch.manual_seed(0)
    return build(settings.model, in_channels=1, num_classes=10, image_size=32)


def test_the_temperature_falls_by_epochs_or_by_steps():
    linear = Train.model_validate({"TAU": "linear", "TAU_MILESTONES": [4, 6], "TAU_TEMPERATURES": [0.25, 0.05]})
    assert [round(temperature(linear, Moment(e, 9, 8, 10)), 3) for e in range(8)] == [
        1.0, 1.0, 0.75, 0.5, 0.25, 0.15, 0.05, 0.05,
    ]  # fmt: skip
    steps = Train.model_validate({"TAU": "step", "TAU_PER": "step", "TAU_EVERY": 5, "TAU_GAMMA": 0.5})
    assert [temperature(steps, Moment(1, n, 8, 10)) for n in (0, 4, 5)] == [0.25, 0.25, 0.125]
    assert temperature(Train(), Moment(7, 7, 8, 10)) == 1.0
    cold = Train.model_validate({"TAU": "step", "TAU_EVERY": 1, "TAU_GAMMA": 0.01})
    with pytest.raises(UserError, match=r"TRAIN.TAU step has fallen to 1e-08 in epoch 5, .* set TRAIN.TAU_MIN"):
        temperature(cold, Moment(4, 0, 8, 10))


def test_hooks_set_the_temperature_and_noise_that_follows_from_the_moment():
    settings = config(TAU="multistep", TAU_MILESTONES=[2], TAU_TEMPERATURES=[0.3])
    net, x, given = built(settings).train(), torch.randn(2, 1, 32, 32), hooks(settings)

    def forward(at, again=1):
        given.before_step(net, at)
        for _ in range(again):
            given.before_forward(net)
            y = net(x)
        return y

    first = forward(Moment(0, 3, 5, 10))
    assert torch.equal(forward(Moment(0, 3, 5, 10)), first)
    assert not torch.equal(forward(Moment(0, 4, 5, 10)), first)
    assert not torch.equal(forward(Moment(0, 3, 5, 10), again=2), first)  # the second mini-batch of a step
    forward(Moment(2, 0, 5, 10))
    taus = [m.tau.item() for m in net.modules() if isinstance(m, LearnablePolyphaseDownsample2d) and m.chooses]
    assert taus == pytest.approx([0.3, 0.3])


def test_scorers_have_no_weight_decay():
    settings = config(WEIGHT_DECAY=5e-4)
    net = built(settings)
    groups = optimizer(settings.train, net).param_groups
    free = {id(p) for name, p in net.named_parameters() if ".scorer." in name}
    assert {id(p) for p in groups[-1]["params"]} == free and groups[-1]["weight_decay"] == 0.0
    assert groups[0]["weight_decay"] == 5e-4


def test_odd_maps_warn_and_impossible_sections_are_refused():
    with pytest.warns(UserWarning, match="meets an odd side"):
        build(config().model, in_channels=1, num_classes=10, image_size=30)
    for settings, words in (
        ({"MODEL": {"ARCH": "basic"}}, "has no strided form"),
        ({"MODEL": {"STRIDED_STEM": True}}, "changes nothing with MODEL.DOWNSAMPLE none"),
        ({"TRAIN": {"TAU": "linear", "TAU_MILESTONES": [3]}}, "as many TAU_TEMPERATURES"),
        ({"TRAIN": {"TAU": "linear", "TAU_MILESTONES": [3], "TAU_TEMPERATURES": [0.0]}}, "must be at least 1e-06"),
    ):
        with pytest.raises((ValidationError, UserError, ValueError), match=words):
            Config.model_validate(settings)


def test_every_network_of_the_catalogue_is_built_and_the_learned_ones_are_exact():
    x = torch.randn(1, 1, 32, 32)
    for name in [name for name in models() if name.startswith("resnet20")]:
        net = built(config(name)).eval()
        with torch.no_grad():
            change = (net(x.roll((3, -5), (2, 3))) - net(x)).abs().max() / net(x).abs().max()
        exact = ("_lps" in name or "_aps" in name) and "_soft" not in name
        assert (change.item() < 1e-5) is exact, f"{name}: {change}"
