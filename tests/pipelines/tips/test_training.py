import torch
import torch.nn.functional as F

from stillpoint.core.training.hooks import Moment
from stillpoint.pipelines.tips.config import Config
from stillpoint.pipelines.tips.models import build
from stillpoint.pipelines.tips.training import hooks, objective


def config(**train):
    return Config.model_validate(
        {"MODEL": {"ARCH": "resnet20", "NUM_DOWN": 2, "WIDTH": 0.25}, "TRAIN": {"WAKE_UP_AT": 2, **train}}
    )


def step(given, net, x, at):
    given.before_step(net, at)
    given.before_forward(net)
    logits = net(x)
    return logits, given.penalty(net)


def test_the_penalty_and_the_weighted_loss_are_the_objective():
    settings = config()
    net, x = build(settings.model, in_channels=1, num_classes=10, image_size=32).train(), torch.randn(4, 1, 32, 32)
    given = hooks(settings)
    labels = torch.tensor([0, 1, 2, 3])
    logits, asleep = step(given, net, x, Moment(0, 3, 5, 10))
    _, awake = step(given, net, x, Moment(1, 3, 5, 10))
    assert 0 < asleep <= 0.5 and awake > asleep and given.task_weight == 0.65
    task = F.cross_entropy(logits, labels)
    aux = (awake - asleep) / 0.35
    want = objective(task, aux[None], asleep, alpha=0.35, awake=True)
    torch.testing.assert_close(given.task_weight * task + awake, want)


def test_shifts_follow_from_seed_epoch_and_step():
    settings = config(WAKE_UP_AT=1)
    net, x = build(settings.model, in_channels=1, num_classes=10, image_size=32).eval(), torch.randn(4, 1, 32, 32)
    net.train()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    given = hooks(settings)
    found = [step(given, net, x, Moment(0, n, 5, 10))[1].item() for n in (0, 1, 0)]
    assert found[0] == found[2] != found[1]


def test_evaluation_keeps_nothing_and_other_pools_have_no_penalty():
    settings = config()
    net = build(settings.model, in_channels=1, num_classes=10, image_size=32).eval()
    given = hooks(settings)
    given.before_forward(net)
    net(torch.randn(2, 1, 32, 32))
    assert all(getattr(module, "watched", None) is None for module in net.modules())
    other = Config.model_validate(
        {"MODEL": {"ARCH": "resnet20", "NUM_DOWN": 2, "DOWNSAMPLE": "stillpoint.pipelines.tips.models:MaxPool2d"}}
    )
    assert hooks(other).penalty is None and hooks(other).task_weight == 1.0
