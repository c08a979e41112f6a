import io
import json

import pytest
import torch
from PIL import Image
from torch import nn

import stillpoint
from benchmarks import (
    board,
    corruptions,
    demo,
    evaluation,
    imagenet_loader,
    jobs,
    loaders,
    networks,
    report,
    start,
    steps,
    training,
)
from benchmarks.harness import Clock
from benchmarks.pictures import NOISE, photographs, pictures, torchvision_loader
from stillpoint import pipelines
from stillpoint.core.data.augment import Augment, Crop
from stillpoint.core.data.corruptions import NAMES, corrupt
from stillpoint.core.data.loading import DeviceLoader
from stillpoint.pipelines.cli import main, parse
from stillpoint.pipelines.commands.bench import ROOT, SUBJECTS, _words


@pytest.fixture
def no_data(tmp_path, monkeypatch):
    """Where no CIFAR-10 is."""
    monkeypatch.setenv("STILLPOINT_DATA", str(tmp_path))


@pytest.fixture
def small(no_data, monkeypatch):
    """Benchmarks of a second."""
    monkeypatch.setattr(training, "BATCH", 4)
    monkeypatch.setattr(training, "WARM_UP", 1)
    monkeypatch.setattr(evaluation, "IMAGES", 6)
    monkeypatch.setattr(evaluation, "REPEATS", 1)
    # not all 1024 shifts, which would take a minute
    metrics = [name for name in evaluation.PAIRS["EVALUATE.METRICS"] if name != "all_shifts"]
    pairs = {"EVALUATE.REPEATS": 1, "EVALUATE.FRACTIONS": 2, "EVALUATE.METRICS": metrics}
    monkeypatch.setattr(evaluation, "FRACTIONS", 2)
    kept = {key: value for key, value in evaluation.PAIRS.items() if key != "EVALUATE.LIMIT_ALL_SHIFTS"}
    monkeypatch.setattr(evaluation, "PAIRS", kept | pairs)
    monkeypatch.setattr(loaders, "COUNT", 32)
    monkeypatch.setattr(loaders, "PHOTOGRAPHS", 8)
    return Clock("cpu", 1)


def test_noise_of_the_same_form_stands_in_for_a_set_that_is_not_there(no_data):
    images = pictures("cifar10", 5)
    assert images.images.shape == (5, 3, 32, 32) and images.images.dtype == torch.uint8
    assert images.title.startswith(NOISE)
    assert torch.equal(images.images, pictures("cifar10", 5).images)


def test_torchvisions_side_gives_the_same_pixels_as_ours(no_data):
    images = pictures("cifar10", 6)
    ours = next(DeviceLoader(images, 6).epoch(0))
    theirs, labels, numbers = next(iter(torchvision_loader(images, [], 6, shuffle=False)))
    assert torch.allclose(ours.images, theirs, atol=1e-5)
    assert torch.equal(ours.labels, labels) and torch.equal(ours.indices, numbers)


def test_our_loop_and_the_bare_network_learn_the_same_while_they_take_turns(small):
    row = training.measure("aps/resnet20", small, 4)
    assert row["losses_compared"] == row["steps"] == 5
    assert row["images"].startswith(NOISE) and row["end_of_epoch_ms"] > 0
    assert set(row["contenders"]) == {"stillpoint", "network", "torchvision"}
    assert training.line("aps/resnet20", row)


@pytest.mark.parametrize("mode", networks.MODES)
def test_a_network_with_filters_is_compared_with_itself_without(monkeypatch, mode):
    monkeypatch.setattr(networks, "ARCH", "resnet18")
    monkeypatch.setattr(networks, "BATCH", 2)
    monkeypatch.setattr(networks, "SIDE", 64)
    row = networks.measure(mode, Clock("cpu", 1), 3)
    assert {"stillpoint", "stillpoint plain", "without filters"} <= set(row["contenders"])
    assert row["without_filters_to_plain"] > 0 and networks.line(mode, row)
    (table,) = jobs.networks({mode: row})
    assert mode in table and "%" in table


@pytest.mark.parametrize("mode", steps.MODES)
def test_a_step_is_compared_with_its_bare_convolutions(monkeypatch, mode):
    monkeypatch.setitem(steps.NETWORKS, "aps/resnet20_aps3", 4)
    row = steps.measure("aps/resnet20_aps3", mode, "float32", False, Clock("cpu", 1), 3)
    assert set(row["contenders"]) == {"stillpoint", "plain", "convolutions"}
    assert row["ratio_to_convolutions"]["convolutions"]["median"] == 1 and row["gflops_per_second"] > 0
    (table, _) = jobs.stepping({f"aps/resnet20_aps3, {mode}": row})
    assert mode in table and steps.line("net", row)


def test_every_convolution_of_a_network_is_found_with_its_operations():
    net = stillpoint.create("aps/resnet20", dataset="cifar10").train()
    counts = steps.convolutions(net, torch.zeros(2, 3, 32, 32))
    assert sum(counts.values()) == sum(isinstance(m, nn.Conv2d) for m in net.modules())
    first = next(iter(counts))
    # around a torus: a border of one pixel; no gradient of the image
    assert first[:2] == ((2, 3, 34, 34), (16, 3, 3, 3)) and first[-2:] == (1, False)
    assert steps.operations(first, "evaluation") == 2 * 2 * 32 * 32 * 16 * 3 * 9
    assert steps.operations(first, "training") == 2 * steps.operations(first, "evaluation")


def test_a_step_that_computes_something_else_is_not_timed(monkeypatch):
    monkeypatch.setitem(steps.NETWORKS, "aps/resnet20", 2)
    made = steps.step

    sides = iter((0.0, 1.0))

    def wrong(*what):
        call, off = made(*what), next(sides)
        return lambda: call() + off

    monkeypatch.setattr(steps, "step", wrong)
    with pytest.raises(RuntimeError, match=r"(?s)ours returned .*, plain PyTorch"):
        steps.measure("aps/resnet20", "evaluation", "float32", False, Clock("cpu", 1), 3)


def test_a_loop_that_learns_something_else_is_not_timed(small, monkeypatch):
    plain = training.plain_steps
    monkeypatch.setattr(training, "plain_steps", lambda *all: (loss + 0.01 for loss in plain(*all)))
    with pytest.raises(RuntimeError, match="our loop has loss"):
        training.measure("aps/resnet20", small, 3)


def test_one_evaluation_and_a_pass_for_each_shift_see_the_same_views_and_agree(small):
    row = evaluation.measure("aps/resnet20", small, 3)
    pairs = 2 * evaluation.REPEATS
    # accuracy, four kinds of pairs (two of them of changed images, seen unshifted too), fractions
    views = 1 + 4 * pairs + 2 + evaluation.FRACTIONS
    assert row["network_images"] == views * 6
    assert all(over > 1 for over in row["over_network"].values())


def test_all_shifts_are_passes_too(small):
    config = pipelines.configure("aps/resnet20", "cifar10", ["EVALUATE.ERASE", "[6]"])
    found = [
        (count, change) for name, count, change in evaluation.passes(config, pictures("cifar10", 6)) if name[0] == "a"
    ]
    # accuracy, then 32 x 32 shifts of the first four images
    assert [count for count, _ in found] == [6] + [4] * 1024
    x = torch.arange(3 * 1024.0).view(3, 32, 32)
    assert torch.equal(found[1 + 32 * 5 + 7][1](x, 2), x.roll((5, 7), (1, 2)))


def test_an_evaluation_that_disagrees_is_not_timed(small, monkeypatch):
    monkeypatch.setattr(evaluation, "one_pass_a_shift", lambda *all: {"circular_consistency": -1.0})
    with pytest.raises(RuntimeError, match="circular_consistency"):
        evaluation.measure("aps/resnet20", small, 3)


def test_every_loader_is_timed_without_any_data(small, tmp_path):
    made = loaders.jobs(tmp_path, None, "")
    assert set(made) == {"augmented", "translated", *imagenet_loader.JOBS}
    for sides in made.values():
        row = loaders.measure(sides, small, 3)
        assert row["ratio_to_torchvision"] > 0 and row["count"] in (32, 8, 80)


def test_a_window_from_nowhere_is_found(no_data):
    images = pictures("cifar10", 4)
    batch = next(DeviceLoader(images, 4, augment=Augment(((Crop(4), "pixels"),))).epoch(0))
    loaders.check(images, batch, 4)
    batch.images[2, 0, 5, 5] += 1
    with pytest.raises(RuntimeError, match="image 2"):
        loaders.check(images, batch, 4)


def test_invented_photographs_are_of_the_usual_size():
    (data,) = photographs(1)
    assert Image.open(io.BytesIO(data)).size == (500, 375)
    assert 30_000 < len(data) < 200_000


@pytest.mark.parametrize("path", sorted(p.name for s in jobs.SUBJECTS for p in report.RESULTS.glob(f"{s}-*.json")))
def test_files_of_whole_jobs_name_machine_load_and_images(path):
    for row in json.loads((report.RESULTS / path).read_text()).values():
        about = row["machine"]
        assert {"device", "threads", "clock", "load_before", "load_after", "rounds", "commit"} <= about.keys()
        assert row["images"] and all(entry["median_ms"] > 0 for entry in row["contenders"].values())


def test_corruptions_are_timed_and_compared_where_nothing_is_drawn(small, monkeypatch):
    monkeypatch.setattr(corruptions, "COUNT", 2)
    monkeypatch.setattr(corruptions, "SMALL_COUNT", 4)
    assert set(corruptions.DETERMINISTIC) < set(NAMES)

    def same(image, *, corruption_name, severity):
        return corrupt(image[None], corruption_name, severity)[0]

    def other(image, **_):
        return 255 - image

    alone = corruptions.measure("contrast", None, small, 3)
    assert "ratio" not in corruptions.line("contrast", alone) and list(alone["contenders"]) == ["stillpoint"]
    both = corruptions.measure("contrast", same, small, 3)
    assert both["differing"] == 0 and both["ratio_to_imagecorruptions"] > 0 and both["small_images_per_second"] > 0
    assert corruptions.measure("fog", other, small, 3)["differing"] is None
    with pytest.raises(RuntimeError, match="our contrast differs from that of imagecorruptions"):
        corruptions.measure("contrast", other, small, 3)
    (table,) = jobs.corrupting({"contrast": both, "contrast alone": alone})
    assert "the same bytes" in table and "| contrast alone |" in table


def test_a_command_is_timed_from_its_start_to_its_end_and_must_succeed(monkeypatch):
    row = start.measure("list", 2)
    assert all(row["contenders"][clock]["median_ms"] > 50 for clock in ("wall", "cpu"))
    assert start.line("list", row).startswith("list ")
    monkeypatch.setattr(start, "STILLPOINT", [*start.STILLPOINT, "no-such-command"])
    with pytest.raises(RuntimeError, match="no-such-command"):
        start.measure("list", 1)


def test_a_demonstration_is_taken_apart(tmp_path):
    run = tmp_path / "aps/digits/resnet20/seed0"
    (tmp_path / "aps/digits/logs").mkdir(parents=True)
    run.mkdir(parents=True)
    (run / "train.json").write_text('{"seconds": 2.0}')
    with pytest.raises(RuntimeError, match="1 trainings and 0 evaluations"):
        demo.parts(tmp_path)
    (run / "metrics.json").write_text('{"provenance": {"seconds": 1.5}}')
    for job, seconds in (("train", 5), ("evaluate", 4), ("table", 1)):
        (tmp_path / f"aps/digits/logs/{job}.tsv").write_text(f"s\tcpu_time\n{seconds}\t1\n")
    found = demo.parts(tmp_path)
    assert found == {"jobs": 3, "networks": 1, "training": 2000, "evaluation": 1500, "all jobs": 10000}
    times = {
        name: {"median_ms": found.get(name, 12000)} for name in ("wall", "cpu", "training", "evaluation", "all jobs")
    }
    row = {"networks": 1, "jobs": 3, "contenders": times}
    assert demo.line("aps", row).startswith("aps: 1 networks, 3 jobs; wall 12.0, ")
    last = [cell.strip() for cell in jobs.demonstrating({"aps": row})[0].splitlines()[-1].strip("|").split("|")]
    assert last[-3:] == ["2.0", "1.5", "+243 %"]


def test_a_demonstration_in_one_process_calls_what_its_jobs_call(tmp_path):
    words = demo.commands("aps", 1, str(tmp_path))
    assert [first for first, *_ in words] == ["prepare", *["train"] * 4, *["evaluate"] * 4, "table", "figures"]
    for command in words:
        assert parse(command).command == command[0]


def test_the_board_is_timed_beside_the_forwards_that_it_needs(no_data, monkeypatch):
    for name, value in {"IMAGES": 6, "DEAR": 2, "EVERY": 1, "STEPS": 1, "BATCH": 4}.items():
        monkeypatch.setattr(board, name, value)
    row = board.measure("cifar10", Clock("cpu", 1), 1)
    # each image, each view of each measure, every shift of one image; an image that is wrong is moved no further
    assert 6 * (1 + 3 * 4 + 4 + 6 + 2 + 2) + 1024 + 2 * 45 < row["network_images"] <= row["network_images_at_most"]
    assert row["ratio_to_forwards"]["median"] > 0 and "of the forwards that it needs" in board.line("cifar10", row)
    (table,) = jobs.boarding({"cifar10": row})
    cells = [cell.strip() for cell in table.splitlines()[-1].strip("|").split("|")]
    assert cells[:2] == ["cifar10", str(row["network_images"])] and cells[5] == "3"


def test_there_is_a_file_of_every_whole_job():
    for subject in jobs.SUBJECTS:
        assert (report.RESULTS / f"{subject}-cpu.json").is_file()


def test_new_rows_stand_beside_the_old(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    monkeypatch.setattr(report, "write", lambda: None)
    report.keep("train", "cpu", {"a": {"x": 1}, "b": {"x": 1}})
    report.keep("train", "cpu", {"b": {"x": 2}})
    assert json.loads((tmp_path / "train-cpu.json").read_text()) == {"a": {"x": 1}, "b": {"x": 2}}


def test_every_subject_is_a_module_with_help():
    for subject in SUBJECTS.values():
        assert (ROOT / f"{subject.module.replace('.', '/')}.py").is_file()


def test_bench_hands_its_options_on():
    words = _words(parse(["bench", "train", "--network", "aps/resnet20", "--network", "aps/resnet18", "--json"]))
    assert words == [
        *("--device", "cpu", "--threads", "1", "--rounds", "30"),
        *("--network", "aps/resnet20", "--network", "aps/resnet18", "--json"),
    ]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["loader", "--network", "aps/resnet20"], "bench loader does not take --network"),
        (["train", "--photographs", "some.tar"], "bench train does not take --photographs"),
        (["loader", "--photographs", "nowhere.tar"], "there is no archive nowhere.tar"),
        (["loader", "--device", "cuda"], "bench loader runs only on cpu, not on cuda"),
        (["train", "--network", "aps/resnet21"], "unknown network 'aps/resnet21'"),
    ],
)
def test_bench_says_what_it_cannot_do(words, sentence, capsys):
    assert main(["bench", *words]) == 2
    assert sentence in capsys.readouterr().err
