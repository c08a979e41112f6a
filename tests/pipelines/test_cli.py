"""The command line: what it prints, and what it says when it is asked for something that cannot be."""

import json
import subprocess
import sys
import textwrap
from argparse import Namespace
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from stillpoint.core.base.errors import UserError
from stillpoint.pipelines.cli import main
from stillpoint.pipelines.commands import COMMANDS, subject
from stillpoint.pipelines.commands.subject import default_dataset


def told(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> str:
    """Output of a command that ends with `code`; where that is 2, the one sentence on the error stream."""
    try:
        ended = main([str(word) for word in words])
    except SystemExit as stop:
        ended = stop.code
    out, error = capsys.readouterr()
    assert ended == code, error
    if code:
        assert error.strip().count("\n") == 0 and error.startswith("stillpoint"), error
        assert not out.strip()
        return error
    return out


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 48, 3), dtype=np.uint8)).save(path)
    return path


def test_list_shows_the_names_that_match(capsys: pytest.CaptureFixture[str]) -> None:
    assert "aps/resnet20_aps1" in told(capsys, "list", "aps/resnet20*")
    rows = json.loads(told(capsys, "list", "aps/*_aps3", "--json"))
    assert rows and all(row["name"].endswith("_aps3") and row["source"] for row in rows)


def test_show_config_takes_pairs_after_options(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["show-config", "aps/resnet18_aps3", "--recipe", "cifar10", "MODEL.FILTER_SIZE", "5"]
    shown = yaml.safe_load(told(capsys, *words))
    assert shown["MODEL"]["FILTER_SIZE"] == 5 and shown["TRAIN"]["EPOCHS"] == 250 and shown["DATA"]["NAME"] == "cifar10"
    assert json.loads(told(capsys, *words, "--json")) == shown


def test_negative_values_are_values_not_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert "SEED" in told(capsys, "show-config", "aps/resnet20", "SEED", "-1", code=2)


def test_the_schema_of_a_pipeline_is_json_schema(capsys: pytest.CaptureFixture[str]) -> None:
    schema = json.loads(told(capsys, "show-config", "aps/resnet20", "--schema"))
    assert "2020-12" in schema["$schema"] and "MODEL" in schema["properties"]


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_help_with_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"stillpoint {command}" in told(capsys, command, "--help")


@pytest.mark.parametrize("command", ["measure", "explain"])
def test_help_says_whose_form_a_small_picture_gets(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = " ".join(told(capsys, command, "--help").split())
    assert "imagenet, or cifar10 if --size is at most 64" in shown
    for size, dataset in ((None, "imagenet"), (64, "cifar10"), (65, "imagenet")):
        assert default_dataset(Namespace(network="blurpool/resnet18", size=size)) == dataset


CIFAR = ["--recipe", "cifar10"]
BAD = [
    (["show-config", "aps/resnet18_asp3"], "nearest: aps/resnet18_aps3"),
    (["show-config", "resnet18_aps3"], "pipeline/model"),
    (["explain", "resnet18"], "'resnet18'; nearest: aps/resnet18, blurpool/resnet18"),
    (["explain", "resnet18_asp3"], "nearest: aps/resnet18_aps3"),
    (["show-config", "apz/resnet18"], "unknown pipeline 'apz'"),
    (["show-config", "aps/resnet18", "TRAIN.EPOCH", "5"], "nearest: TRAIN.EPOCHS"),
    (["show-config", "aps/resnet18", "TRAIN.EPOCHS"], "has no value"),
    (["show-config", "aps/resnet18", "TRAIN.EPOCHS", "many"], "TRAIN.EPOCHS"),
    (["show-config", "aps/resnet18", "--recipe", "cifar11"], "no recipe 'cifar11'"),
    (["show-config", "aps/resnet18_aps3", *CIFAR, "MODEL.FILTER_SIZE", "9"], "less than or equal to 7"),
    (["show-config", "aps/resnet18", "MODEL", "5"], "is a section"),
    (["show-config", "aps/resnet18", "--frob"], "unknown argument '--frob'"),
    (["train", "aps/resnet18", "--sed", "1"], "unknown argument '--sed'; nearest: --seed"),
    (["show-config", "apss/resnet18"], "unknown pipeline 'apss'; nearest: aps"),
    (["show-config", "aps/resnet18", "TRAIN.EPOCHS", "three"], "TRAIN.EPOCHS: must be a whole number (given: 'three')"),
    (["show-config", "aps/resnet18", "TRAIN.LR", "fast"], "TRAIN.LR: must be a number (given: 'fast')"),
    (["show-config", "aps/resnet18", "TRAIN.NESTEROV", "3"], "TRAIN.NESTEROV: must be True or False (given: 3)"),
    (["list", "nets/*"], "no network matches"),
    (["list", "apz/*"], "no network matches 'apz/*'; nearest: aps/*"),
    (["list", "blurpol"], "nearest: blurpool/*"),
    (["list", "aps/*", "more"], "unknown argument 'more'"),
    (["frob"], "there is no command 'frob' (see: stillpoint --help)"),
    (["meassure", "--timm", "resnet18"], "there is no command 'meassure'; nearest: measure"),
    ([], "a command is needed"),
    (["prepare", "cifar11"], "unknown data set"),
    (["table", "lps", "--kept", "--recipe", "imagenet"], "--recipe imagenet, then stillpoint release"),
    (["evaluate", "here"], "is not a run's folder"),
    (["explain"], "name exactly one network"),
    (["measure", "aps/resnet20_aps1", "--image", "missing.png"], "there is no image missing.png"),
    (["explain", "--model", "nothere:build"], "nothere"),
    (["explain", "--model", "json"], "MODULE:FUNCTION"),
    (["explain", "--model", "json:__name__"], "is a str, not an nn.Module or a function"),
    (["explain", "aps/resnet18_aps3", "--size", "0"], "--size"),
    (["table", "aps", "--recipe", "cifar100"], "nothing was evaluated"),
    (["run", "aps", "--recipe", "cifar11"], "no recipe 'cifar11'"),
    (["run", "aps", "--dataset", "cifar10"], "--dataset cifar10 is now --recipe cifar10_demo"),
    (["run", "aps", "--dataset", "cifar10", "--scale", "paper"], "is now --recipe cifar10"),
    (["run", "aps", "--scale", "paper"], "--scale paper is now --recipe digits"),
    (["train", "aps/resnet20", "--dataset", "cifar10"], "--dataset cifar10 is now --recipe cifar10"),
    (["table", "aps", "--dataset", "cifar10"], "--recipe cifar10"),
    (["figures", "aps", "--dataset", "cifar10"], "--recipe cifar10"),
    (["show-config", "aps/resnet20", "--dataset", "imagenet"], "--recipe imagenet"),
    (["run", "aps", "MODEL.FILTER_SIZE", "9"], "less than or equal to 7"),
    (["train", "aps/resnet20_aps1", "--device", "gpu7"], "gpu7"),
    (["train", "aps/resnet20_aps1", "--threads", "999999999"], "sixteen threads per core"),
    (["train", "aps/resnet20_aps1", "--recipe", "cifar10"], "is not in"),
]


@pytest.mark.parametrize(("words", "said"), BAD, ids=[" ".join(words) or "nothing" for words, _ in BAD])
def test_bad_input_gets_one_sentence_and_leaves_nothing(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said in told(capsys, *words, code=2)
    left = [path for path in tmp_path.rglob("*") if path.is_file() and path.name not in (".lock", "log.txt")]
    assert not left


def test_a_run_without_weights_says_how_to_train_them(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tmp_path / "aps" / "digits" / "resnet20" / "seed0"
    folder.mkdir(parents=True)
    assert "train it first" in told(capsys, "evaluate", folder, code=2)
    (folder / "config.yaml").write_text("SEED: 0\n")
    assert "stillpoint train aps/resnet20 --recipe digits --seed 0" in told(capsys, "evaluate", folder, code=2)


def test_measure_draws_a_map_and_says_that_the_network_is_untrained(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, photo: Path
) -> None:
    output = tmp_path / "map.png"
    words = ["measure", "aps/resnet20_aps1", "--image", photo, "--max-shift", "2", "--output", output]
    shown = told(capsys, *words)
    assert "the network is untrained" in shown and "consistency 100.00%" in shown and Image.open(output).size[0] > 100
    found = json.loads(told(capsys, *words, "--json"))
    assert found["consistency"] == 1.0 and found["max_logit_change"] < 1e-5 and not found["trained"]


def test_a_photograph_is_measured_upright(capsys: pytest.CaptureFixture[str], tmp_path: Path, photo: Path) -> None:
    turned, exif = tmp_path / "turned.png", Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    with Image.open(photo) as image:
        image.transpose(Image.Transpose.ROTATE_90).save(turned, exif=exif)
    words = ["measure", "aps/resnet20", "--max-shift", "1", "--json", "--output", tmp_path / "map.png", "--image"]
    found = [json.loads(told(capsys, *words, path)) for path in (photo, turned)]
    assert found[0]["change"] == found[1]["change"] and found[0]["max_logit_change"] > 0


def test_a_picture_that_cannot_be_read_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG not really")
    assert "broken.png" in told(capsys, "measure", "aps/resnet20_aps1", "--image", broken, code=2)


def test_a_benchmark_on_a_gpu_that_is_not_there_is_refused_at_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for words in (["layer"], ["train"], ["network", "--only", "inference"]):
        assert "device cuda needs a GPU, but torch sees none" in told(
            capsys, "bench", *words, "--device", "cuda", code=2
        )


def test_weights_that_are_none_are_named(capsys: pytest.CaptureFixture[str], tmp_path: Path, photo: Path) -> None:
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(b"\x08")
    words = ["measure", "aps/resnet20_aps1", "--image", photo, "--weights", torn]
    assert "torn.safetensors" in told(capsys, *words, code=2)


def test_odd_sizes_warn_that_invariance_is_lost(
    capsys: pytest.CaptureFixture[str], photo: Path, tmp_path: Path
) -> None:
    words = ["measure", "aps/resnet20_aps1", "--image", photo, "--max-shift", "1", "--size", "30"]
    assert main([str(word) for word in [*words, "--output", tmp_path / "map.png"]]) == 0
    assert "not exact" in capsys.readouterr().err


def test_explain_names_the_module_that_first_breaks_equivariance(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(told(capsys, "explain", "aps/resnet20_lpf3", "--size", "32", "--json"))
    assert found["first_broken"]["name"].startswith("layer2.0")
    assert json.loads(told(capsys, "explain", "aps/resnet20_aps3", "--size", "32", "--json"))["first_broken"] is None
    assert "first breaks in layer2.0" in told(capsys, "explain", "aps/resnet20_lpf3", "--size", "32")


def test_explain_takes_a_network_of_ones_own(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "from torch import nn\n\ndef build():\n    return nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU())\n"
    (tmp_path / "ownnet.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    found = json.loads(told(capsys, "explain", "--model", "ownnet:build", "--size", "16", "--json"))
    assert found["first_broken"]["type"] == "Conv2d"


def test_explain_takes_a_module_and_says_what_it_leaves_out(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "from torch import nn\n\nnet = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(2), nn.ReLU(), nn.Flatten())\n"
    (tmp_path / "ownmodule.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    said = told(capsys, "explain", "--model", "ownmodule:net", "--size", "16")
    assert "3 of 3 modules" in said
    assert "left out: 2 outputs that are neither maps (B, C, h, w) nor vectors (B, K), such as tokens (B, N, C)" in said


def test_measure_takes_no_network_that_gives_maps_or_several_outputs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = """
        from torch import nn

        class Two(nn.Module):
            def forward(self, x):
                return {"first": x, "aux": x}

        two, maps = Two(), nn.Identity()
    """
    (tmp_path / "twooutputs.py").write_text(textwrap.dedent(text))
    monkeypatch.chdir(tmp_path)
    words = ("--image", photo, "--size", "16", "--max-shift", "1")
    assert "of type dict (first, aux), and none of its entries is a tensor called logits or out" in told(
        capsys, "measure", "--model", "twooutputs:two", *words, code=2
    )
    assert "the network returns maps" in told(capsys, "measure", "--model", "twooutputs:maps", *words, code=2)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("train", "aps/resnet20", "MODEL.NAME", "resnet18_aps3"), "MODEL.NAME is resnet20"),
        (("show-config", "aps/resnet20", "PIPELINE", "blurpool"), "PIPELINE is aps"),
        (("run", "aps", "SEED", "3"), "SEED is set for each run"),
        (("run", "nosuch"), "unknown pipeline 'nosuch'"),
        (("evaluate", "aps/resnet20_aps3", "--pretrained", "--status", "e3"), "leave out --status"),
        (("train", "aps/resnet20", "--threads", "0"), "must be a positive integer of at most nine digits, not '0'"),
    ],
)
def test_what_names_a_run_is_not_set_by_hand(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    assert said in told(capsys, *words, code=2)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--max-shift", "0"), "must be at least 1"),
        (("--max-shift", "1", "--output", "map.jpg"), "map.jpg must end in .png"),
        (("--max-shift", "1", "--size", "8"), "cannot take images of 3x8x8"),
    ],
)
def test_pictures_that_cannot_be_measured_or_drawn(
    capsys: pytest.CaptureFixture[str], photo: Path, words: tuple[str, ...], said: str
) -> None:
    assert said in told(capsys, "measure", "blurpool/vgg11", "--image", photo, *words, "MODEL.WIDTH", "0.05", code=2)


def test_a_folder_that_is_a_file_is_named(capsys: pytest.CaptureFixture[str], photo: Path) -> None:
    assert f"{photo}" in told(capsys, "train", "aps/resnet20", "--results", photo, code=2)


def test_a_command_whose_packages_are_not_installed_names_the_extra() -> None:
    program = (
        "import sys; sys.modules['yacs'] = None\n"
        "from stillpoint.pipelines.cli import main\n"
        "assert main(['list', 'aps/resnet20']) == 0\n"
        "raise SystemExit(main(['show-config', 'aps/resnet20']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "stillpoint: yacs is not installed: pip install 'stillpoint[pipelines]'\n"


@pytest.mark.parametrize("words", [("--torchvision", "resnet18"), ("aps/resnet20",)])
def test_a_network_is_named_before_its_libraries_are_loaded(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []

    def status(what: object) -> AbstractContextManager[None]:
        shown.append(str(what))
        return nullcontext()

    def loads(*given: object) -> None:
        assert shown == [f"loading {words[-1]}"]
        raise UserError("loaded")

    monkeypatch.setattr(subject, "console", lambda: Namespace(status=status))
    monkeypatch.setattr(subject.foreign, "of_torchvision", loads)
    monkeypatch.setattr(subject, "build", loads)
    assert "loaded" in told(capsys, "explain", *words, code=2)
