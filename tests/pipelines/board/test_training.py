"""What the board's training adds, in one process and in two."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from stillpoint import pipelines
from stillpoint.core.base.randomness import generator
from stillpoint.core.data.build import Loaders, augmentation
from stillpoint.core.data.loading import DeviceLoader
from stillpoint.core.data.sets import ImageSet
from stillpoint.core.layers.gumbel import Tempered
from stillpoint.core.runs.checkpoint import read_tensors
from stillpoint.core.runs.layout import Run
from stillpoint.core.training.hooks import Moment
from stillpoint.core.training.train import train
from stillpoint.pipelines.board.training import hooks
from tests import fresh

STEPS = (Moment(epoch=1, epochs=4, step=3, steps=22), Moment(epoch=1, epochs=4, step=4, steps=22))


def seen() -> dict[str, Tensor]:
    """Temperatures, and the logits of the same images in two training forwards of each of two steps."""
    config = pipelines.configure("board/lps3", "digits")
    net, own = pipelines.build(config).train(), hooks(config)
    assert own.before_step is not None and own.before_forward is not None
    images = torch.randn(4, 1, 32, 32, generator=generator("test", "board"))
    found = {}
    for at in STEPS:
        own.before_step(net, at)
        for part in range(2):
            own.before_forward(net)
            found[f"{at.step} {part}"] = net(images).detach()
    found["tau"] = torch.stack([one.tau for one in net.modules() if isinstance(one, Tempered) and one.tau is not None])
    return found


def in_a_process(rank: str, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=int(rank), world_size=2)
    torch.save(seen(), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_draw_noise_of_their_own_and_the_first_draws_what_one_alone_does(tmp_path: Path) -> None:
    program = "import sys; from tests.pipelines.board import test_training as own; own.in_a_process(*sys.argv[1:])"
    both = [fresh.start(["-c", program, rank, tmp_path]) for rank in range(2)]
    for done in [process.wait() for process in both]:
        assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    alone = seen()
    forwards = [key for key in alone if key != "tau"]
    assert len(forwards) == 4 and all(torch.equal(first[key], alone[key]) for key in alone)
    # noise softens the choice of every layer: equal logits would be equal noise
    logits = [found[key] for found in (first, second) for key in forwards]
    for k, one in enumerate(logits):
        assert not any(torch.allclose(one, other, atol=1e-4) for other in logits[:k])
    assert torch.equal(first["tau"], second["tau"]) and (first["tau"] < 1).all()


def noise(count: int = 16) -> ImageSet:
    random = generator("test", "board noise")
    pixels = torch.randint(256, (count, 3, 32, 32), generator=random, dtype=torch.uint8)
    about = tuple("abcdefghij"), (0.49, 0.48, 0.45), (0.25, 0.24, 0.26), "noise", "0" * 64
    return ImageSet(pixels, torch.arange(count) % 10, *about)


#: recipe -> what makes a step of it small; all that an entry sets for itself is left
SMALL = {
    "cifar10": ["TRAIN.WAKE_UP_AT", "1"],
    "cifar10_fast": ["TRAIN.WAKE_UP_AT", "1", "TRAIN.WHITEN", "16", "TRAIN.WARMUP_EPOCHS", "0", "TRAIN.SIDES", "[24]"],
}
CASES = [(recipe, name) for recipe in SMALL for name in pipelines.recipe_config("board", recipe).grid]


@pytest.mark.parametrize(("recipe", "name"), CASES)
def test_every_entry_on_cifar10_trains_a_step_of_its_recipe(recipe: str, name: str, tmp_path: Path) -> None:
    pairs = ["MODEL.WIDTH", "0.25", "TRAIN.EPOCHS", "1", "TRAIN.BATCH_SIZE", "8", *SMALL[recipe]]
    config, run = pipelines.configure(f"board/{name}", recipe, pairs), Run("board", recipe, name, 0, tmp_path)

    def loaders(device: torch.device, rank: int, world_size: int) -> Loaders:
        options = {"augment": augmentation(config, training=True), "channels_last": config.train.channels_last}
        images = noise()
        return Loaders(DeviceLoader(images, 8, shuffle=True, **options), digest=images.digest, title=images.title)

    (row,) = train(config, run, build=pipelines.build, hooks=hooks(config), loaders=loaders, device="cpu", threads=1)
    assert row["train_loss"] is not None and 0 < row["train_loss"] < 50
    before, (after, _) = pipelines.build(config).state_dict(), read_tensors(run.weights)
    net = pipelines.build(config)
    # speednet's norms have no scale that is learnt, and its whitened first layer stays as it is
    fixed = [key for key, one in net.named_parameters() if not one.requires_grad]
    learnt = [key for key, one in net.named_parameters() if one.requires_grad and key != "first.weight"]
    assert len(learnt) > 10 and not [key for key in learnt if torch.equal(before[key], after[key])]
    assert all(torch.equal(before[key], after[key]) for key in fixed)
