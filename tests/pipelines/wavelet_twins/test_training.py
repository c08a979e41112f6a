"""The penalty and the record of gradients in training, snapshots to go back to, and runs as objects."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from stillpoint import pipelines
from stillpoint.core.base.errors import UserError
from stillpoint.core.base.randomness import generator
from stillpoint.core.config.schema import RunConfig
from stillpoint.core.data.build import Loaders
from stillpoint.core.data.loading import DeviceLoader
from stillpoint.core.data.sets import ImageSet
from stillpoint.core.layers.wavelet_twin import WaveletTwin2d
from stillpoint.core.runs.layout import Run
from stillpoint.core.runs.records import Progress, rewind
from stillpoint.core.training.train import train
from stillpoint.pipelines import recipe_config
from stillpoint.pipelines.cli import main
from stillpoint.pipelines.gathering import gather
from stillpoint.pipelines.results import shown_by
from stillpoint.pipelines.wavelet_twins.catalogue import ARCHITECTURES, CLASSIFIERS, configs, sections
from stillpoint.pipelines.wavelet_twins.models import first_layer, mixing_weights
from stillpoint.pipelines.wavelet_twins.penalty import penalty
from stillpoint.pipelines.wavelet_twins.training import hooks

NAME = "wavelet_twins/dtcwpt_resnet18"
SMALL = [
    "MODEL.CONFIG",
    "Ft40Y",
    "TRAIN.EPOCHS",
    "4",
    "TRAIN.BATCH_SIZE",
    "4",
    "TRAIN.SNAPSHOTS",
    "2",
    "TRAIN.LR",
    "0.05",
]


def images() -> ImageSet:
    pixels = torch.randint(0, 256, (10, 1, 32, 32), generator=generator("small"), dtype=torch.uint8)
    return ImageSet(pixels, torch.arange(10) % 2, ("0", "1"), (0.5,), (0.5,), "noise", "digest")


def small(config: RunConfig) -> nn.Module:
    """The first layer that a configuration names, and the least that makes a classifier of it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        first = first_layer(config.model.arch, config.model.config, in_channels=1)
        pool = nn.AdaptiveAvgPool2d(1)
        return nn.Sequential(first, nn.ReLU(), pool, nn.Flatten(), nn.Linear(64, 2))


def configured(*pairs: str) -> RunConfig:
    return pipelines.configure(NAME, "digits", [*SMALL, *pairs])


def trained(folder: Path, *pairs: str, **options: object) -> Run:
    config = configured(*pairs)
    run = Run("wavelet_twins", "digits", "dtcwpt_resnet18", 0, folder)

    def loaders(device: torch.device, rank: int, world_size: int) -> Loaders:
        return Loaders(DeviceLoader(images(), 4, shuffle=True), digest="digest", title="noise")

    train(config, run, build=small, loaders=loaders, hooks=hooks(config), threads=1, device="cpu", **options)
    return run


def test_the_penalty_drives_each_output_to_one_packet(tmp_path: Path) -> None:
    factors = (0.0, 0.05)

    def spread(run: Run) -> float:
        net = small(configured())
        net.load_state_dict(load_file(run.weights))
        return penalty(mixing_weights(net), factors).item()

    without = trained(tmp_path / "without")
    under = trained(tmp_path / "under", "MODEL.PENALTY", str(list(factors)))
    assert spread(under) < 0.8 * spread(without)


def test_gradients_of_every_update_are_kept_through_a_resume(tmp_path: Path) -> None:
    wanted = ("MODEL.RECORD_GRADIENTS", "True", "MODEL.PENALTY", "[0.0, 0.01]")
    whole = load_file(trained(tmp_path / "whole", *wanted).record)
    # 3 updates in each of 4 epochs; 12 rows in each of the 2 sections
    assert {name: tuple(part.shape) for name, part in whole.items()} == {"section0": (12, 12), "section1": (12, 12)}
    assert all((part > 0).all() for part in whole.values())
    run = trained(tmp_path / "again", *wanted)
    rewind(configured(*wanted), run, 2, Progress())
    assert not run.record.exists() and not run.weights.exists()
    again = load_file(trained(tmp_path / "again", *wanted).record)
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert hooks(configured()).record is None and hooks(configured()).penalty is None


def test_a_run_goes_on_from_a_snapshot_exactly_and_only_from_one_that_is_there(tmp_path: Path) -> None:
    run = trained(tmp_path)
    weights, history = run.weights.read_bytes(), run.history.read_text()
    assert run.snapshots() == [2, 4]
    with pytest.raises(UserError, match=r"no snapshot of epoch 3 to resume from: it has e2, e4"):
        rewind(configured(), run, 3, Progress())
    with pytest.raises(UserError, match=r"holds a run with other settings \(TRAIN.LR: 0.05 -> 0.1\)"):
        rewind(configured("TRAIN.LR", "0.1"), run, 2, Progress())
    assert run.weights.exists()
    rewind(configured(), run, 2, Progress())
    assert run.snapshots() == [2] and len(run.history.read_text().splitlines()) == 3
    trained(tmp_path)
    assert run.weights.read_bytes() == weights and run.history.read_text() == history


def test_the_number_of_sections_is_that_of_the_layer_and_other_penalties_are_refused() -> None:
    for arch, kind in ARCHITECTURES.items():
        # the free half and the packets do not depend on depth and blur
        if kind.twin and arch.endswith(("AlexNet", "resnet18")):
            for config in configs(arch)[:5]:
                assert len(first_layer(arch, config).wavelet.mixing) == sections(arch, config)
    assert sections("resnet34", "Bf3") == 0
    for factors in ("[0.1]", "[0, 0.1, 0.1]"):
        with pytest.raises(
            UserError, match="a factor for each of the 2 sections of packets of dtcwpt_resnet18 Ft40Y, got"
        ):
            configured("MODEL.PENALTY", factors)
    for key, value in (("RECORD_GRADIENTS", "True"), ("PENALTY", "[0.1]")):
        with pytest.raises(UserError, match=f"{key} needs a network with wavelets, which resnet18 does not have"):
            pipelines.configure("wavelet_twins/R18C", "digits", [f"MODEL.{key}", value])


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_classifier_has_a_recipe_with_the_recorded_settings(name: str) -> None:
    grids = {path.stem: path for path in (pipelines.HERE / "wavelet_twins" / "configs").glob("*.yaml")}
    found = []
    for recipe in set(grids) - {"digits", "cifar10_demo", "cifar10_fast", "cifar10_pretrained", "cifar10_quarter"}:
        if name in recipe_config("wavelet_twins", recipe).grid:
            found.append(pipelines.configure(f"wavelet_twins/{name}", recipe))
    (config,) = found
    recipe, alexnet = config.train, name.startswith("A")
    imagenet = name.split("_")[0].endswith("I")
    assert (recipe.epochs, recipe.step_epochs) == ((90, 30) if imagenet else (300, 100))
    assert (recipe.lr, recipe.weight_decay, recipe.momentum) == (0.01 if alexnet else 0.1, 1e-4, 0.9)
    assert recipe.accumulate == (2 if name in ("Rzo3I", "Rzo3wyI", "Rzo3wyI_mod") else 1)
    assert config.data.validation_choice == "first" and config.data.validation == (100_000 if imagenet else 5000)
    assert recipe.snapshots == 30 and config.augment.resized_crop == (0.08, 1.0) and config.augment.flip == 0.5
    assert config.model.penalty == ((0.0, 0.0041, 0.00032) if alexnet and "wy" in name else ())


def test_a_run_is_an_object_at_each_of_its_moments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["wavelet_twins/R18wyC_mod", "--results", str(tmp_path), "--data", str(tmp_path / "data"), "--threads", "1"]
    short = ["DATA.LIMIT", "16", "DATA.VALIDATION", "40", "TRAIN.EPOCHS", "2", "TRAIN.BATCH_SIZE", "8"]
    assert main(["train", *words, *short, "TRAIN.SNAPSHOTS", "1"]) == 0
    folder = tmp_path / "wavelet_twins/digits/R18wyC_mod/seed0"
    measured = ["EVALUATE.LIMIT_SHIFTS", "4", "EVALUATE.KL_SHIFT", "1", "EVALUATE.FLIP_SHIFT", "1", "DATA.LIMIT", "16"]
    assert main(["evaluate", str(folder), "--data", str(tmp_path / "data"), "--threads", "1", *measured]) == 0
    assert main(["table", "wavelet_twins", "--results", str(tmp_path)]) == 0
    assert "R18wyC_mod" in capsys.readouterr().out
    run = pipelines.load("wavelet_twins/R18wyC_mod", results=tmp_path)
    first = pipelines.load("wavelet_twins/R18wyC_mod", results=tmp_path, status="e1")
    last = pipelines.load("wavelet_twins/R18wyC_mod", results=tmp_path, status="checkpoint")
    assert (run.epoch, first.epoch, last.epoch) == (2, 1, 2)
    assert len(run.losses) == 2 and len(first.losses) == 1 and set(run.val_errors) == {1, 2}
    assert all(0 <= error <= 1 for error in run.val_errors.values())
    x = torch.randn(2, 1, 32, 32, generator=generator("x"))
    with torch.inference_mode():
        assert torch.equal(run.net(x), last.net(x)) and not torch.equal(run.net(x), first.net(x))
    score = run.scores["digits"]["test"]["shifts_vertical"]["mfr"]
    assert set(score) == {"value", "images", "date", "commit"} and set(score["value"]) == {"1"}
    assert any(isinstance(module, WaveletTwin2d) for module in run.net.modules())
    pages = {path.name: path.read_text() for path in folder.parent.parent.glob("*.md")}
    # the stored classifiers saw other images
    assert set(pages) == {"table.md", "shifts.md", "cost.md"}
    for status, sentence in {
        "e7": r"has no snapshot e7: it has weights, checkpoint, e1, e2",
        "newest": r"status must be weights, checkpoint, best or e<N>, not 'newest'",
        "best": r"kept the last epoch, not the best",
    }.items():
        with pytest.raises(UserError, match=sentence):
            pipelines.load("wavelet_twins/R18wyC_mod", results=tmp_path, status=status)
    with pytest.raises(UserError, match=r"holds no run \(there are seed0\)"):
        pipelines.load("wavelet_twins/R18wyC_mod", results=tmp_path, seed=5)
    with pytest.raises(UserError, match=r"holds no run \(there are runs of it under digits\)"):
        pipelines.load("wavelet_twins/R18wyC_mod", results=tmp_path, recipe="cifar10")


def test_stored_scores_are_the_ones_that_the_table_states() -> None:
    import yaml

    entries = yaml.safe_load((pipelines.HERE / "wavelet_twins" / "published.yaml").read_text())["entries"]
    rows = {row["models"][0]: row for entry in entries for row in entry["rows"]}
    assert set(rows) == set(CLASSIFIERS)
    # numbers of the facts' summary: errors of one and ten crops, and means over shifts and steps
    assert rows["R34zo3wyC_mod"]["accuracy"] == pytest.approx(100 - 12.77)
    assert rows["RI"]["accuracy_top5"] == pytest.approx(100 - 9.23, abs=0.006)
    assert rows["AwyI_mod"]["kl_diagonal"] == pytest.approx(0.0763, abs=6e-5)
    assert rows["AwyI_mod"]["mfr_vertical"] == pytest.approx(17.80, abs=0.006)
    # a mean over steps of 1 to 5 frames; the stored rates of RI on snow
    snow = [0.082327336, 0.124203451, 0.155000001, 0.177412599, 0.197776929]
    assert rows["RI"]["perturbations_snow"] == pytest.approx(100 * sum(snow) / 5, abs=6e-4)


def test_stored_flip_rates_on_videos_are_of_five_networks_and_have_a_column_each() -> None:
    from stillpoint.pipelines.wavelet_twins import results

    published = pipelines.paper("wavelet_twins").published
    stored = {row.models[0]: row.model_extra or {} for entry in published.entries for row in entry.rows}
    videos = {f"perturbations_{kind}" for kind in results.VIDEOS}
    held = {name: {key for key in row if key.startswith("perturbations")} for name, row in stored.items()}
    assert {name for name, keys in held.items() if keys} == {"AI", "AwyI", "AwyI_mod", "RI", "Rzo3I"}
    assert all(keys == videos for keys in held.values() if keys)
    assert videos <= {column.key for column in results.COLUMNS}
    # larger networks flip less
    assert all(stored["RI"][key] < stored["AI"][key] for key in videos)


def test_every_stored_classifier_has_its_line_beside_ours(tmp_path: Path) -> None:
    run = Run("wavelet_twins", "cifar10_demo", "R18C", 0, tmp_path)
    run.folder.mkdir(parents=True)
    run.metrics.write_text(json.dumps({"dataset": "CIFAR-10", "trained": {"accuracy": 0.5}}))
    found = gather("wavelet_twins", "cifar10_demo", tmp_path, None, [])
    text = shown_by(found.paper, found.config).pages["classifiers.md"].text(found)
    rows = {cells[0]: cells for line in text.splitlines() if (cells := [c.strip() for c in line.strip("|").split("|")])}
    assert set(CLASSIFIERS) <= set(rows)
    assert rows["R18C"][3:5] == ["1", "85.08 / 50.00"] and rows["R18wyC"][3:5] == ["", "85.77"]
