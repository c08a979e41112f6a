"""The segmenters of the paper: from a recipe to a table's numbers, on made folders of VOC's form."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from stillpoint import pipelines
from stillpoint.core.base.errors import UserError
from stillpoint.core.base.interrupt import Interrupted
from stillpoint.core.data.shifts import shift_zeros
from stillpoint.core.evaluation.engine import evaluate
from stillpoint.core.evaluation.run import evaluate_run
from stillpoint.core.layers import LearnablePolyphaseUpsample2d
from stillpoint.core.metrics.segmentation import confusion_matrix, segmentation_scores
from stillpoint.core.runs.layout import Run
from stillpoint.core.training.optim import optimizer
from stillpoint.core.training.train import train
from stillpoint.pipelines.lps.catalogue import models
from stillpoint.pipelines.lps.evaluate import evaluations
from stillpoint.pipelines.lps.training import begun, groups
from tests.core.training.test_train_resume import StopAfter
from tests.core.voc import drawn_voc

PAPER = pipelines.paper("lps")
SMALL = ("MODEL.WIDTH", "0.0625", "MODEL.DECODER_CHANNELS", "8", "MODEL.RATES", "[1, 2]")
VOC = (*SMALL, "DATA.IMAGE_SIZE", "64", "MODEL.FORM", "imagenet", "TRAIN.EPOCHS", "2", "TRAIN.BATCH_SIZE", "2")


def config(model="deeplab_resnet18_lps3", *pairs, recipe="voc2012"):
    return pipelines.configure(f"lps/{model}", recipe, list(pairs))


@pytest.fixture(scope="module")
def voc(tmp_path_factory) -> Path:
    root = drawn_voc(tmp_path_factory.mktemp("voc"))
    listed = root / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / "trainaug.txt"
    listed.write_text("".join(f"2007_{k:06}\n" for k in range(4)))
    return root


def trained(root: Path, voc: Path, **options) -> Run:
    settings = config("deeplab_resnet18_lps3", *VOC)
    run = Run("lps", "voc2012", "deeplab_resnet18_lps3", 0, root)
    options = {"data_root": voc, "device": "cpu", "threads": 1, "hooks": PAPER.hooks(settings), **options}
    train(settings, run, build=PAPER.network, **options)
    return run


@pytest.fixture(scope="module")
def whole(tmp_path_factory, voc) -> Run:
    return trained(tmp_path_factory.mktemp("whole"), voc)


def test_the_recipe_runs_to_its_numbers_on_folders_of_vocs_form(whole, voc):
    settings = config(
        "deeplab_resnet18_lps3", *VOC, "EVALUATE.MAX_SHIFT", "9", "EVALUATE.REPEATS", "2", "EVALUATE.UNTRAINED", "True"
    )
    measured = evaluate_run(
        whole,
        config=settings,
        build=PAPER.network,
        evaluations=PAPER.evaluations(settings),
        data_root=voc,
        device="cpu",
        threads=1,
    )
    found, before = measured["trained"], measured["untrained"]
    rows = whole.history.read_text().splitlines()
    assert len(rows) == 3 and all(float(value) >= 0 for value in rows[-1].split(",") if value)
    # it goes back up on the grids it went down on: nothing but the place of its maps changes
    assert found["circular_maps_agreement"] == before["circular_maps_agreement"] == before["circular_maps_iou"] == 1
    assert 0 <= found["segmentation_mean_iou"] <= found["segmentation_mean_accuracy"] <= 1
    assert 0 < before["crop_maps_agreement"] <= 1
    shown = PAPER.shown(settings)
    assert {column.key for column in shown.columns} <= set(found) and shown.axes[0] == "segmentation_mean_iou"


def test_a_segmentation_that_was_stopped_goes_on_to_the_same_bytes(tmp_path, whole, voc):
    with pytest.raises(Interrupted):
        trained(tmp_path, voc, progress=StopAfter(3))  # of 2 x 2 steps
    run = trained(tmp_path, voc)
    assert run.weights.read_bytes() == whole.weights.read_bytes()
    assert run.history.read_bytes() == whole.history.read_bytes()


def test_the_resnet_trains_at_a_rate_of_its_own_and_begins_from_a_classifiers_weights(tmp_path):
    settings = config("deeplab_resnet18_lps3", *VOC, "TRAIN.WEIGHT_DECAY", "0.01")
    net = PAPER.network(settings)
    found = optimizer(settings.train, net, groups(net, 0.1)).param_groups
    names = {id(p): name for name, p in net.named_parameters()}
    told = {(group["lr_factor"], group["weight_decay"]): [names[id(p)] for p in group["params"]] for group in found}
    assert set(told) == {(1.0, 0.01), (0.1, 0.01), (0.1, 0.0)}
    assert all(name.startswith("backbone.") == (factor == 0.1) for (factor, _), own in told.items() for name in own)
    assert told[0.1, 0.0] and all(".scorer." in name for name in told[0.1, 0.0])

    pairs = ("MODEL.WIDTH", "0.0625", "MODEL.FORM", "imagenet", "DATA.IMAGE_SIZE", "64")
    classifier = PAPER.network(pipelines.configure("lps/resnet18_lps3", "imagenet", list(pairs)))
    state = begun({name: tensor + 1 for name, tensor in classifier.state_dict().items()}, net)
    assert state.keys() == net.state_dict().keys()
    assert torch.equal(state["backbone.layer1.0.conv1.weight"], classifier.layer1[0].conv1.weight + 1)
    assert torch.equal(state["head.3.weight"], net.head[3].weight)
    assert begun(net.state_dict(), net).keys() == state.keys()
    with pytest.raises(UserError):
        begun({"layer1.0.conv1.weight": torch.zeros(1)}, net)


def _add(to: list[torch.Tensor], module: torch.nn.Module, given: object, found: torch.Tensor) -> None:
    to.append(found)


def test_segmenters_of_all_kinds_are_built_and_those_on_their_grids_move_exactly():
    x = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    for name in [name for name in models() if name.startswith("deeplab_resnet20")]:
        net = PAPER.network(config(name, *SMALL, "MODEL.WIDTH", "0.5", recipe="digits_segmentation")).eval()
        scores: list[torch.Tensor] = []
        generator = torch.Generator().manual_seed(1)
        for part, module in net.named_modules():
            if part.endswith(".scorer"):
                # units that are all on, as they may start, score all grids of a blurred map alike
                for parameter in module.parameters():
                    torch.nn.init.normal_(parameter, generator=generator)
                module.register_forward_hook(partial(_add, scores))
        with torch.no_grad():
            y, moved = net(x), net(x.roll((3, -5), (2, 3)))
        assert all(found.flatten().sort().values.diff().min() > 1e-4 * found.abs().max() for found in scores)
        change = (moved - y.roll((3, -5), (2, 3))).abs().max() / y.abs().max()
        exact = net.ups is not None
        assert exact == (name not in ("deeplab_resnet20", "deeplab_resnet20_lpf3", "deeplab_resnet20_lps3_bilinear"))
        assert (change.item() < 1e-5) is exact, f"{name}: {change}"
        gains = {m.gain for m in net.modules() if isinstance(m, LearnablePolyphaseUpsample2d)}
        assert gains == ({4.0} if exact else set())


def test_images_of_odd_sides_come_back_at_their_size():
    net = PAPER.network(config("deeplab_resnet18_lps3", *VOC)).eval()
    with torch.no_grad():
        assert net(torch.randn(1, 3, 65, 71)).shape == (1, 21, 65, 71)
    net.train()(torch.randn(2, 3, 33, 47)).sum().backward()


def test_the_authors_protocol_draws_once_a_batch_and_calls_precision_accuracy(voc):
    pairs = ("EVALUATE.PROTOCOL", "authors", "EVALUATE.MAX_SHIFT", "5", "EVALUATE.REPEATS", "2")
    settings = config("deeplab_resnet18_lpf3", *VOC, *pairs, "EVALUATE.BATCH_SIZE", "1")
    net = PAPER.network(settings).eval()
    from stillpoint.core.data.build import loader

    batches = loader(settings, "test", voc, batch_size=1)
    found = evaluate(net, batches, settings.evaluate, seed=7, evaluations=evaluations(settings))
    random, agreed, matrix = np.random.RandomState(7), [], 0
    for batch in batches.epoch(0):
        with torch.no_grad():
            plain, same = net(batch.images).argmax(1), []
            matrix = matrix + confusion_matrix(plain, batch.labels, classes=21)
            for _ in range(2):
                shift = (random.randint(-5, 6), random.randint(-5, 6))
                there = shift_zeros(torch.ones_like(plain)[:, None], shift)[:, 0] > 0
                moved = net(shift_zeros(batch.images, shift)).argmax(1)
                same.append(float((moved == shift_zeros(plain[:, None], shift)[:, 0])[there].double().mean()))
        agreed.append(same)
    assert found["crop_maps_agreement"] == pytest.approx(np.mean(agreed), rel=1e-12)
    assert found["crop_maps_agreement_variance"] == pytest.approx(np.var(np.mean(agreed, 0)), abs=1e-15)
    scores = segmentation_scores(matrix, transposed=True)
    assert found["segmentation_mean_accuracy"] == pytest.approx(scores["mean_accuracy"], rel=1e-12)


@pytest.mark.parametrize(
    ("recipe", "pairs", "said"),
    [
        ("digits", ("MODEL.DECODER", "deeplabv3plus"), "digits has one per image"),
        ("digits", ("MODEL.RATES", "[1]"), r"MODEL.RATES \(1,\) changes nothing with MODEL.DECODER none"),
        ("digits", ("TRAIN.BACKBONE_LR_FACTOR", "0.1"), "changes nothing with MODEL.DECODER none"),
        ("digits", ("TRAIN.PIXELS", "all"), "TRAIN.PIXELS all needs label maps, but digits has one class for each"),
        ("digits", ("EVALUATE.METRICS", "[segmentation]"), "unknown evaluation 'segmentation'"),
        ("voc2012", ("MODEL.DECODER", "none"), "changes nothing with MODEL.DECODER none"),
        ("voc2012", ("MODEL.RATES", "[0]"), "greater than 0"),
        (
            "voc2012",
            ("TRAIN.LOSS", "mse"),
            "TRAIN.LOSS mse does not support the label maps of voc2012: set cross_entropy",
        ),
        ("voc2012", ("EVALUATE.METRICS", "[accuracy]"), "unknown evaluation 'accuracy'"),
        ("voc2012", ("MODEL.DOWNSAMPLE", "blur", "MODEL.FILLING", "[]"), "needs chosen grids"),
    ],
)
def test_what_does_not_go_together_is_refused_in_a_sentence(recipe, pairs, said):
    model = "deeplab_resnet18_lps3" if recipe == "voc2012" else "resnet20_lps3"
    with pytest.raises(UserError, match=said):
        config(model, *pairs, recipe=recipe)


def test_one_image_alone_trains_no_pyramid():
    with pytest.raises(UserError, match="BATCH_SIZE that leaves no batch of one"):
        PAPER.network(config("deeplab_resnet18_lps3", *VOC)).train()(torch.zeros(1, 3, 64, 64))


def test_a_table_knows_what_its_numbers_are():
    told = json.dumps([column.heading for column in PAPER.shown(config()).columns])
    assert "mean IoU (%)" in told and "circular mASSC (%)" in told and "accuracy, top 5" not in told
