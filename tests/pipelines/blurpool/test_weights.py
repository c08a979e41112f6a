"""The authors' names, what a fine-tune may start from, and the commands that convert and fetch."""

import contextlib
import hashlib
import http.server
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import densenet121, mobilenet_v2, resnet18, vgg11_bn

from stillpoint import pipelines
from stillpoint.core.base.errors import UserError
from stillpoint.core.runs.checkpoint import load_weights, read_tensors
from stillpoint.core.runs.layout import Run
from stillpoint.core.training.train import train
from stillpoint.pipelines.blurpool import weights
from stillpoint.pipelines.cli import main
from stillpoint.pipelines.commands import weights as commands

SMALL = {"dataset": "digits", "width": 0.125, "width_divisor": 8, "filter_padding": "replicate"}


def authors(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The state of `net` as the authors would have stored it, filters included."""
    paths = dict(weights.authors_paths(net))
    state = {weights._renamed(name, paths): tensor.clone() for name, tensor in net.state_dict().items()}
    for path, module in net.named_modules():
        if isinstance(module, weights.BlurPool2d):
            kernel = module.kernel
            state[f"{paths[path]}.filt"] = kernel.expand(3, 1, *kernel.shape[-2:]).clone()
    return state


def perturbed(net: torch.nn.Module) -> torch.nn.Module:
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for tensor in net.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=random))
    return net


@pytest.mark.parametrize("name", ["resnet18_lpf4", "vgg11_bn_lpf3", "mobilenet_v2_lpf5", "densenet121_lpf2"])
def test_the_authors_checkpoint_of_a_network_gives_it_back(name: str) -> None:
    options = {"dataset": "digits"} if name.startswith("densenet") else SMALL
    net = perturbed(pipelines.create(f"blurpool/{name}", **options))
    stored = {"epoch": 90, "state_dict": {f"module.{key}": tensor for key, tensor in authors(net).items()}}
    found = weights.from_authors(stored, net)
    assert found.keys() == net.state_dict().keys()
    assert all(torch.equal(tensor, net.state_dict()[key]) for key, tensor in found.items())


def test_the_names_are_those_of_the_paper_s_code() -> None:
    assert {"layer2.0.conv2.1.weight", "layer2.0.downsample.2.bias", "maxpool.1.filt", "layer4.0.conv2.0.filt"} <= set(
        authors(pipelines.create("blurpool/resnet18_lpf4", width=0.125))
    )
    with torch.device("meta"):
        vgg = pipelines.create("blurpool/vgg16_bn_lpf4", width=0.125)
        alexnet = pipelines.create("blurpool/alexnet_lpf4")
    assert {f"features.{k}.filt" for k in (7, 15, 26, 37, 48)} <= set(authors(vgg))
    assert {f"features.{k}.weight" for k in (0, 5, 9, 11, 13)} | {"features.2.filt"} <= set(authors(alexnet))


def test_old_names_of_densenets_are_known() -> None:
    net = perturbed(pipelines.create("blurpool/densenet121_lpf4", dataset="digits"))
    old = {
        key.replace("norm1.", "norm.1.").replace("conv2.", "conv.2.") if "denselayer" in key else key: tensor
        for key, tensor in authors(net).items()
    }
    assert any("norm.1.weight" in key for key in old)
    assert weights.from_authors(old, net).keys() == net.state_dict().keys()


def test_a_checkpoint_of_another_network_or_filter_is_refused_by_name() -> None:
    net = pipelines.create("blurpool/resnet18_lpf4", **SMALL)
    with pytest.raises(UserError, match=r"unexpected features\.0"):
        weights.recognised(authors(pipelines.create("blurpool/vgg11_bn_lpf4", **SMALL)), net)
    with pytest.raises(UserError, match=r"layer2\.0\.conv2\.0\.filt holds another filter than ours"):
        weights.recognised(authors(pipelines.create("blurpool/resnet18_lpf3", **SMALL)), net)


@pytest.mark.parametrize(
    ("name", "make"),
    [("resnet18", resnet18), ("mobilenet_v2", mobilenet_v2), ("vgg11_bn", vgg11_bn), ("densenet121", densenet121)],
)
def test_torchvisions_names_and_shapes_are_ours(name: str, make) -> None:
    with torch.device("meta"):
        theirs = make().state_dict()
        net = pipelines.create(f"blurpool/{name}_lpf4")
    # older files have no counters
    plain = {key: torch.zeros(t.shape) for key, t in theirs.items() if not key.endswith(weights.COUNTER)}
    found = weights.recognised(plain, net)
    assert {k: tuple(t.shape) for k, t in found.items()} == {k: tuple(t.shape) for k, t in net.state_dict().items()}


@pytest.mark.parametrize("form", ["torchvision", "safetensors", "authors"])
def test_a_fine_tune_starts_from_each_of_the_three_kinds_of_file(tmp_path: Path, form: str) -> None:
    settings = ["MODEL.WIDTH", "0.125", "TRAIN.EPOCHS", "0", "DATA.LIMIT", "8"]
    plain = perturbed(pipelines.create("blurpool/resnet18", **SMALL))
    # the authors' file of the filled network has the same tensors under other names
    filled = pipelines.create("blurpool/resnet18_lpf4", **SMALL)
    filled.load_state_dict(plain.state_dict())
    path = tmp_path / ("resnet18.safetensors" if form == "safetensors" else "resnet18.pth")
    if form == "safetensors":
        save_file(plain.state_dict(), path)
    else:
        state = plain.state_dict() if form == "torchvision" else {"state_dict": authors(filled)}
        torch.save(state, path, _use_new_zipfile_serialization=form == "torchvision")
    pairs = [*settings, "TRAIN.FINETUNE", str(tmp_path / path.name.replace("resnet18", "{arch}"))]
    config = pipelines.configure("blurpool/resnet18_lpf4", "digits", pairs)
    assert config.train.finetune == str(path)
    run = Run("blurpool", "digits", "resnet18_lpf4", 0, tmp_path)
    train(
        config,
        run,
        build=pipelines.build,
        data_root=tmp_path,
        device="cpu",
        hooks=pipelines.paper(config.pipeline).hooks(config),
    )
    kept, _ = read_tensors(run.weights)
    assert all(torch.equal(tensor, plain.state_dict()[name]) for name, tensor in kept.items())


def convert(source: Path, target: Path, model: str) -> int:
    pairs = ["MODEL.WIDTH", "0.125", "MODEL.FILTER_PADDING", "replicate"]
    return main(["weights", "convert", str(source), str(target), "--model", model, "--dataset", "cifar10", *pairs])


def test_convert_strips_optimizer_and_wrappers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = perturbed(pipelines.create("blurpool/vgg11_bn_lpf3", **{**SMALL, "dataset": "cifar10"}))
    stored = {f"module.{key}": tensor for key, tensor in authors(net).items()}
    source, target = tmp_path / "model_best.pth.tar", tmp_path / "vgg.safetensors"
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9).state_dict()
    content = {"epoch": 5, "arch": "vgg11_bn_lpf3", "state_dict": stored, "best_acc1": 50.0, "optimizer": optimizer}
    torch.save(content, source, _use_new_zipfile_serialization=False)
    assert convert(source, target, "blurpool/vgg11_bn_lpf3") == 0
    again = pipelines.create("blurpool/vgg11_bn_lpf3", **{**SMALL, "dataset": "cifar10"})
    about = load_weights(again, target, model="blurpool/vgg11_bn_lpf3")
    assert about["converted_from"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert all(torch.equal(tensor, net.state_dict()[name]) for name, tensor in again.state_dict().items())
    assert convert(source, target, "blurpool/resnet18_lpf3") == 2
    assert "does not fit blurpool/resnet18_lpf3: the checkpoint is of another network" in capsys.readouterr().err
    # ours says which network it is of, though the shapes fit
    assert convert(target, tmp_path / "b.safetensors", "blurpool/vgg11_bn_lpf4") == 2
    assert "holds the weights of blurpool/vgg11_bn_lpf3" in capsys.readouterr().err
    assert convert(target, target, "blurpool/vgg11_bn_lpf3") == 2
    capsys.readouterr()
    # without a network to fit, the tensors under the names they have
    bare = tmp_path / "bare.safetensors"
    assert main(["weights", "convert", str(source), str(bare)]) == 0
    assert "tensors, with unchanged names" in capsys.readouterr().out
    tensors, _ = read_tensors(bare)
    assert tensors.keys() == stored.keys() and "module.features.0.weight" in tensors
    assert all(torch.equal(tensor, stored[name]) for name, tensor in tensors.items())
    assert convert(bare, tmp_path / "c.safetensors", "blurpool/vgg11_bn_lpf3") == 0
    assert main(["weights", "convert", str(source), str(bare), "MODEL.WIDTH", "0.125"]) == 2
    assert "add --model" in capsys.readouterr().err


class _Files(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        content = self.server.content  # type: ignore[attr-defined]
        if content is None:
            self.send_error(403)
            return
        self.send_response(200)
        lost = self.server.lost  # type: ignore[attr-defined]
        if lost is not None:
            self.send_header("Content-Length", str(len(content) + lost))
        self.end_headers()
        self.wfile.write(content)
        with contextlib.suppress(ConnectionError):
            while lost is None:
                self.wfile.write(bytes(1 << 20))

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[http.server.HTTPServer]:
    """A server on loopback that gives `content`, or refuses where that is None; `published` states its hash."""
    with http.server.HTTPServer(("127.0.0.1", 0), _Files) as served:
        served.content, served.lost = b"weights" * 1000, 0  # type: ignore[attr-defined]
        digits = hashlib.sha256(served.content).hexdigest()[:8]  # type: ignore[attr-defined]
        address = f"http://127.0.0.1:{served.server_port}/folder/"
        monkeypatch.setattr(commands, "published", lambda name: (address, f"net-{digits}.pth", digits))
        thread = threading.Thread(target=served.serve_forever, daemon=True)
        thread.start()
        yield served
        served.shutdown()
        thread.join()


def fetch(folder: Path) -> int:
    return main(["weights", "fetch", "blurpool/net", "--to", str(folder)])


def test_fetch_keeps_a_file_whose_hash_is_right(server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fetch(tmp_path / "new") == 0 and "written:" in capsys.readouterr().out
    (path,) = (tmp_path / "new").iterdir()
    assert path.read_bytes() == server.content
    server.content = None
    assert fetch(tmp_path / "new") == 0 and "already there" in capsys.readouterr().out


def test_fetch_says_that_the_server_refuses(server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.content = None
    assert fetch(tmp_path) == 2
    assert "the server refuses http://127.0.0.1" in (said := capsys.readouterr().err) and "HTTP 403" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "said"), [("other", "not the published file"), ("torn", "broke off|IncompleteRead")]
)
def test_fetch_keeps_nothing_else(server, tmp_path: Path, capsys, change: str, said: str) -> None:
    if change == "other":
        server.content = b"something else"
    else:
        server.lost = 10
    assert fetch(tmp_path) == 2
    assert re.search(said, capsys.readouterr().err) and not list(tmp_path.iterdir())


@pytest.mark.parametrize(("lost", "said"), [(None, "sends more than"), (1 << 40, "announces 1,099,511,634,776 bytes")])
def test_a_download_has_an_end(server, tmp_path: Path, monkeypatch, capsys, lost: int | None, said: str) -> None:
    monkeypatch.setattr(commands, "LARGEST", 5 << 20)
    server.lost = lost
    assert fetch(tmp_path) == 2
    assert said in " ".join(capsys.readouterr().err.split()) and not list(tmp_path.iterdir())


def test_fetch_says_that_there_is_no_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["weights", "fetch", "blurpool/resnet50_lpf4_finetune", "--to", str(tmp_path)]
    assert main([*words, "--address", "http://127.0.0.1:9"]) == 2
    assert "cannot be reached" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_published_names_have_an_address_and_a_hash(capsys: pytest.CaptureFixture[str]) -> None:
    address, file, digits = commands.published("blurpool/resnet50_lpf4_finetune")
    assert address.startswith("https://") and file == "resnet50_lpf4_finetune-cad66808.pth" and digits == "cad66808"
    assert main(["weights", "fetch", "blurpool/resnet50_lpf6"]) == 2
    assert "no weights 'resnet50_lpf6'" in capsys.readouterr().err
    assert main(["weights", "fetch", "aps/resnet18_aps1"]) == 2
    assert "aps has no published weights" in capsys.readouterr().err
