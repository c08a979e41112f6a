"""The authors' checkpoints fit strictly, and what does not fit is named."""

import pytest
import torch

from stillpoint import pipelines
from stillpoint.core.base.errors import UserError
from stillpoint.core.runs.checkpoint import fill, read_tensors
from stillpoint.core.runs.layout import Run
from stillpoint.core.training.train import train
from stillpoint.pipelines.cli import main
from stillpoint.pipelines.sdnet.config import Model
from stillpoint.pipelines.sdnet.models import build
from stillpoint.pipelines.sdnet.weights import from_authors, names


def make(name: str = "sdnet18", **settings):
    return build(Model.model_validate({"NAME": name, **settings}), in_channels=3, num_classes=10, image_size=32)


def authors_name(name: str, dense: bool) -> str:
    """Written apart from `names`, from the facts: what the authors call our entry."""
    head, _, rest = name.partition(".")
    if head == "fc":
        return f"linear.{rest}"
    if head in ("conv1", "bn1"):
        return f"layer0.{'01'[head == 'bn1']}.{rest}"
    coded = rest.endswith("step_size") or (rest.endswith("weight") and head == "stem" and rest[0] in "02")
    coded = coded or (dense and "conv" in rest)
    module, _, leaf = rest.replace("downsample", "shortcut").rpartition(".")
    layers = "layers." if dense and head != "stem" else ""
    return f"{'layer0' if head == 'stem' else head}.{layers}{module}.{'dn.' if coded else ''}{leaf}"


@pytest.mark.parametrize(
    ("name", "wrapped"), [("sdnet18", False), ("sdnet18", True), ("sdnet18_all", False), ("resnet18", False)]
)
def test_an_authors_checkpoint_loads_and_computes_the_same(name, wrapped):
    torch.manual_seed(0)
    ours, loaded = make(name).eval(), make(name).eval()
    dense = name.endswith("_all")
    checkpoint = {authors_name(key, dense): value for key, value in ours.state_dict().items()}
    assert "layer0.0.dn.weight" in checkpoint or name == "resnet18"
    if wrapped:
        checkpoint = {"state_dict": {f"module.{key}": value for key, value in checkpoint.items()}, "epoch": 3}
    loaded.load_state_dict(from_authors(checkpoint, loaded))
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(loaded(x), ours(x))


def test_a_layer_that_a_max_pool_follows_keeps_its_name():
    pooled, plain = names(make("sdnet18_all", POOLING=True)), names(make("sdnet18_all"))
    assert pooled["layer2.0.conv1.0.weight"] == "layer2.layers.0.conv1.dn.weight"
    assert list(pooled.values()) == list(plain.values())


def test_what_does_not_fit_is_named():
    net = make()
    good = {authors_name(key, False): value for key, value in net.state_dict().items()}
    without = {key: value for key, value in good.items() if key != "layer0.0.dn.weight"}
    with pytest.raises(UserError, match=r"missing layer0\.0\.dn\.weight"):
        from_authors(without, net)
    with pytest.raises(UserError, match="unexpected extra"):
        from_authors({**good, "extra": torch.zeros(1)}, net)
    with pytest.raises(UserError, match=r"of another shape fc\.weight \(100, 512\) instead of \(10, 512\)"):
        fill(net, from_authors({**good, "linear.weight": torch.zeros(100, 512)}, net), origin="theirs")
    with pytest.raises(UserError, match=r"stem\.0\.weight in the checkpoint has an atom of zeros"):
        from_authors({**good, "layer0.0.dn.weight": torch.zeros(64, 3, 3, 3)}, net)
    with pytest.raises(UserError, match="must be a positive finite number"):
        from_authors({**good, "layer0.0.dn.step_size": torch.tensor(float("nan"))}, net)
    with pytest.raises(UserError, match=r"missing .* and 11 more"):
        from_authors(dict(list(good.items())[16:]), net)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The authors' file of a narrow network without shortcuts, and the network."""
    net = pipelines.create("sdnet/sdnet18_all_noshortcut", dataset="digits", width=0.05, seed=3)
    path = tmp_path_factory.mktemp("authors") / "model_best.pth.tar"
    torch.save({authors_name(key, True): value for key, value in net.state_dict().items()}, path)
    return path, net


def same(path, net):
    kept, about = read_tensors(path)
    assert kept.keys() == net.state_dict().keys()
    assert all(torch.equal(tensor, net.state_dict()[name]) for name, tensor in kept.items())
    return about


@pytest.mark.parametrize("ours", [False, True])
def test_a_fine_tune_starts_from_the_authors_file_and_from_ours(checkpoint, tmp_path, ours):
    path, net = checkpoint
    if ours:
        path = tmp_path / "ours.pth"
        torch.save({"state_dict": {f"module.{key}": value for key, value in net.state_dict().items()}}, path)
    pairs = ["MODEL.WIDTH", "0.05", "TRAIN.EPOCHS", "0", "DATA.LIMIT", "8", "TRAIN.FINETUNE", str(path)]
    config = pipelines.configure("sdnet/sdnet18_all_noshortcut", "digits", pairs)
    run = Run("sdnet", "digits", "sdnet18_all_noshortcut", 0, tmp_path)
    train(
        config,
        run,
        build=pipelines.build,
        data_root=tmp_path,
        device="cpu",
        hooks=pipelines.paper(config.pipeline).hooks(config),
    )
    same(run.weights, net)


def test_what_is_converted_bears_the_name_of_the_network_that_its_settings_make(checkpoint, tmp_path, capsys):
    path, net = checkpoint
    target, options = tmp_path / "ours.safetensors", ["--dataset", "digits", "MODEL.WIDTH", "0.05"]
    words = ["weights", "convert", str(path), str(target), "--model", "sdnet/sdnet18_all", *options]
    assert main([*words, "MODEL.SHORTCUT", "False"]) == 0
    assert same(target, net)["model"] == "sdnet/sdnet18_all_noshortcut"
    assert "tensors of sdnet/sdnet18_all_noshortcut" in capsys.readouterr().out
    words[2:4] = str(target), str(tmp_path / "again.safetensors")
    assert main([*words, "MODEL.SHORTCUT", "False"]) == 0
    capsys.readouterr()
    assert main(words) == 2
    assert "of sdnet/sdnet18_all_noshortcut, not of sdnet/sdnet18_all" in capsys.readouterr().err.replace("\n", " ")
