"""Measurements against their definition, image by image with Pillow; determinism; scores; what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from stillpoint import pipelines
from stillpoint.core.base.errors import UserError
from stillpoint.core.base.randomness import generator
from stillpoint.core.data.batched_crops import resize_batch, shifted_crops_batch, ten_crops_batch
from stillpoint.core.data.sets import FolderSet, ImageSet
from stillpoint.core.data.shifted_crops import crops_at, shift_offsets, shifted_crops, ten_crops
from stillpoint.core.evaluation.engine import evaluate
from stillpoint.core.runs.layout import Run
from stillpoint.pipelines.wavelet_twins.config import Evaluate
from stillpoint.pipelines.wavelet_twins.evaluate import evaluations
from stillpoint.pipelines.wavelet_twins.perturbations import frames, videos
from stillpoint.pipelines.wavelet_twins.scores import nested, read, write_scores

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


def image_set(count: int = 7, size: int = 32) -> ImageSet:
    pixels = torch.randint(0, 256, (count, 3, size, size), generator=generator("twins"), dtype=torch.uint8)
    labels = torch.arange(count) % 10
    return ImageSet(pixels, labels, tuple("0123456789"), MEAN, STD, "noise", "digest")


def pictures(images: torch.Tensor) -> list[Image.Image]:
    return [Image.fromarray(image.permute(1, 2, 0).numpy().squeeze()) for image in images]


def small_net() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(
            nn.Conv2d(3, 8, 5, stride=3), nn.ReLU(), nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(32, 10)
        ).eval()


def configured(**settings: object):  # type: ignore[no-untyped-def]
    pairs = [text for key, value in settings.items() for text in (f"EVALUATE.{key.upper()}", str(value))]
    return pipelines.configure("wavelet_twins/R18C", "cifar10", pairs)


@pytest.mark.parametrize(
    ("channels", "height", "width", "size", "max_shift", "divide"),
    [(3, 32, 32, 32, 8, 2), (1, 32, 32, 32, 4, 1), (3, 17, 23, 12, 3, 3)],
)
def test_batched_views_are_pillows_to_the_bit(channels, height, width, size, max_shift, divide) -> None:
    images = torch.randint(0, 256, (3, channels, height, width), generator=generator("views"), dtype=torch.uint8)
    offsets = shift_offsets("diagonal", max_shift * divide) + shift_offsets("horizontal", max_shift * divide)
    options = {"max_shift": max_shift, "divide": divide}
    want = torch.stack([crops_at(picture, size, offsets, **options) for picture in pictures(images)], 1)
    assert torch.equal(torch.stack(list(shifted_crops_batch(images, size, offsets, **options))), want)
    resize = size * 8 // 7
    ten = torch.stack([ten_crops(picture, size, resize=resize) for picture in pictures(images)], 1)
    assert torch.equal(torch.stack(list(ten_crops_batch(images, size, resize=resize))), ten)


def test_a_batch_is_resized_as_pillow_does_up_and_down() -> None:
    images = torch.randint(0, 256, (2, 3, 19, 31), generator=generator("resize"), dtype=torch.uint8)
    for height, width in ((7, 11), (40, 64), (19, 50), (19, 31)):
        want = [np.asarray(p.resize((width, height), Image.Resampling.BILINEAR)) for p in pictures(images)]
        got = resize_batch(images, height, width).permute(0, 2, 3, 1).numpy()
        assert np.array_equal(got, np.stack(want))


@pytest.mark.parametrize("mode", ["shifts", "shifts_normalised"])
def test_divergence_and_flip_rates_are_those_of_the_definition(mode: str) -> None:
    held, net = image_set(), small_net()
    config = configured(kl_shift=2, flip_shift=3, metrics=f"['{mode}']", directions="['vertical', 'diagonal', 'all']")
    found = evaluate(net, held, config.evaluate, evaluations=evaluations(config))
    prefix = "normalised_" if mode == "shifts_normalised" else ""
    # the recipe's own statistics, not the set's
    mean, std = (torch.tensor(v)[:, None, None] for v in (config.data.mean, config.data.std))

    def logits(direction: str, max_shift: int, divide: int) -> torch.Tensor:
        views = torch.stack(
            [
                shifted_crops(p, 32, max_shift=max_shift, divide=divide, direction=direction)
                for p in pictures(held.images)
            ]
        )
        x = views.flatten(0, 1) / 255
        with torch.no_grad():
            return net((x - mean) / std if prefix else x).double().view(len(held), -1, 10)

    for direction in ("vertical", "diagonal", "all"):
        chances = logits(direction, 2, 2).softmax(2)
        curve = (chances[:, :1] * (chances[:, :1] / chances).log()).sum(2).mean(0)
        got = found[f"{prefix}kl_{direction}_curve"]
        torch.testing.assert_close(got.flatten(), curve, atol=1e-7, rtol=1e-5)
        assert found[f"{prefix}kl_{direction}"] == pytest.approx(float(curve[1:].mean()), rel=1e-4)
        if direction != "all":
            assert found[f"{prefix}kl_{direction}_pixel"] == pytest.approx(float(curve[2]), rel=1e-5)
            classes = logits(direction, 3, 1).argmax(2)
            rates = [(classes[:, s:] != classes[:, :-s]).double().mean() for s in (1, 2, 3)]
            assert found[f"{prefix}mfr_{direction}_curve"].tolist() == pytest.approx(
                [float(r) for r in rates], rel=1e-6
            )
            assert found[f"{prefix}mfr_{direction}"] == pytest.approx(float(sum(rates)) / 3)
    square = logits("all", 3, 1).argmax(2).view(-1, 4, 4)
    ones = torch.cat([(square[:, :, 1:] != square[:, :, :-1]).flatten(), (square[:, 1:] != square[:, :-1]).flatten()])
    assert float(found[f"{prefix}mfr_all_curve"][0]) == pytest.approx(float(ones.double().mean()), rel=1e-6)


def test_no_batch_size_changes_a_result_and_photographs_are_treated_as_tensors_are(tmp_path: Path) -> None:
    held, net = image_set(5), small_net()
    paths = []
    for number, picture in enumerate(pictures(held.images)):
        picture.save(tmp_path / f"{number}.png")
        paths.append(str(tmp_path / f"{number}.png"))
    config = configured(kl_shift=2, flip_shift=2, limit_shifts=4, metrics="['tencrops', 'shifts']")
    known = evaluations(config)
    results = [
        evaluate(net, held, config.evaluate.model_copy(update={"batch_size": size}), evaluations=known)
        for size in (5, 2)
    ]

    class Files:
        """The loader of photographs of the network's size: normalised batches, and the files behind them."""

        image_set = FolderSet(tuple(paths), held.labels, held.classes, MEAN, STD, "noise", "digest")

        def __len__(self) -> int:
            return 1

        def epoch(self, epoch: int):
            from stillpoint.core.data.loading import DeviceLoader

            yield from DeviceLoader(held, 5).epoch(epoch)

    results.append(evaluate(net, Files(), config.evaluate, evaluations=known))
    for other in results[1:]:
        for name, value in results[0].items():
            torch.testing.assert_close(torch.as_tensor(other[name]), torch.as_tensor(value), atol=1e-6, rtol=1e-5)
    assert results[0]["shifts_images"] == 4


def test_ten_crops_average_probabilities() -> None:
    held, net = image_set(), small_net()
    config = configured(metrics="['tencrops']")
    found = evaluate(net, held, config.evaluate, evaluations=evaluations(config))
    mean, std = (torch.tensor(v)[:, None, None] for v in (config.data.mean, config.data.std))
    views = torch.stack([ten_crops(picture, 32, resize=36) for picture in pictures(held.images)])
    with torch.no_grad():
        chances = net((views.flatten(0, 1) / 255 - mean) / std).softmax(1).view(len(held), 10, 10).mean(1)
    assert found["tencrops_accuracy"] == pytest.approx(float((chances.argmax(1) == held.labels).double().mean()))
    assert found["tencrops_accuracy_top5"] >= found["tencrops_accuracy"]


def test_flip_rates_of_videos_follow_their_frames(tmp_path: Path) -> None:
    # a class is the channel that is bright: two flips in a video of four frames, none in the other
    for video, colours in {"flips": (0, 1, 1, 0), "still": (2, 2, 2, 2)}.items():
        folder = tmp_path / "snow" / "n01" / video
        folder.mkdir(parents=True)
        for number, colour in enumerate(colours):
            pixels = np.zeros((224, 224, 3), np.uint8)
            pixels[..., colour] = 255
            Image.fromarray(pixels).save(folder / f"{number}.png")
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    config = configured(metrics="['perturbations']", imagenet_p=tmp_path, perturbation_steps=3)
    found = evaluate(net, image_set(1), config.evaluate, evaluations=evaluations(config))
    assert found["perturbations_snow_curve"].tolist() == pytest.approx([2 / 6, 2 / 4, 0])
    assert nested(
        {"trained": {}}, {f"trained/{k}": v for k, v in found.items() if isinstance(v, torch.Tensor)}, "x"
    ) == {("imagenet_p", "snow", "perturbations", "mfr"): pytest.approx({"1": 2 / 6, "2": 2 / 4, "3": 0})}


def test_a_video_is_read_by_ffmpeg_and_a_bad_one_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "ffmpeg"
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/words\nhead -c $((2 * 3 * 224 * 224)) /dev/zero\n')
    program.chmod(0o755)
    video = tmp_path / "snow" / "n01" / "a.mp4"
    video.parent.mkdir(parents=True)
    video.write_bytes(b"video")
    (tmp_path / ".ipynb_checkpoints" / "n01" / "a").mkdir(parents=True)
    (tmp_path / "snow" / ".ipynb_checkpoints" / "a").mkdir(parents=True)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert frames(video).shape == (2, 3, 224, 224) and videos(tmp_path) == {"snow": [video]}
    assert f"-protocol_whitelist file,pipe -f mov -i file:{video} " in (tmp_path / "words").read_text()
    program.write_text("#!/bin/sh\necho 'Invalid data' >&2; exit 1\n")
    with pytest.raises(UserError, match=r"a\.mp4 cannot be read as a video \(Invalid data\)"):
        frames(video)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(UserError, match="needs the program ffmpeg"):
        frames(video)
    with pytest.raises(UserError, match=r"ImageNet-P is not in .*nowhere: unpack its archives"):
        videos(tmp_path / "nowhere")
    config = configured(metrics="['perturbations']")
    with pytest.raises(UserError, match=r"set EVALUATE\.IMAGENET_P"):
        evaluate(small_net(), image_set(1), config.evaluate, evaluations=evaluations(config))


def test_scores_are_nested_dated_and_of_one_set_of_weights(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    run, config = Run("wavelet_twins", "cifar10", "R18C", 0, tmp_path), configured()
    run.folder.mkdir(parents=True)
    run.weights.write_bytes(b"first")

    def measured(accuracy: float, curve: float) -> None:
        trained = {"accuracy": accuracy, "shifts_images": 80.0, "normalised_shifts_images": 40.0}
        run.metrics.write_text(json.dumps({"trained": trained, "images": 100, "provenance": {"commit": "abc"}}))
        arrays = {
            "trained/kl_vertical_curve": np.array([0.0, curve]),
            "trained/normalised_mfr_diagonal_curve": np.ones(2),
        }
        save_file(arrays, run.maps)
        write_scores(config, run)

    measured(0.5, 0.25)
    first = read(run)["scores"]["cifar10"]["test"]
    assert first["onecrop"]["top1_accuracy_score"]["value"] == 0.5
    assert first["shifts_vertical"]["kldiv"]["value"] == [0.0, 0.25]
    assert first["shifts_diagonal_normalised"]["mfr"]["value"] == {"1": 1.0, "2": 1.0}
    assert (
        first["onecrop"]["top1_accuracy_score"]["commit"] == "abc" and first["onecrop"]["top1_accuracy_score"]["date"]
    )
    modes = ("onecrop", "shifts_vertical", "shifts_diagonal_normalised")
    assert [score["images"] for mode in modes for score in first[mode].values()] == [100, 80, 40]
    measured(0.5, 0.125)
    again = read(run)["scores"]["cifar10"]["test"]
    # what was found again keeps its date
    assert again["onecrop"] == first["onecrop"] and again["shifts_vertical"]["kldiv"]["value"] == [0.0, 0.125]
    run.weights.write_bytes(b"others")
    run.maps.unlink()
    save_file({"trained/other": np.zeros(1)}, run.maps)
    write_scores(config, run)
    assert list(read(run)["scores"]["cifar10"]["test"]) == ["onecrop"]


def test_unknown_directions_are_refused() -> None:
    with pytest.raises(UserError, match=r"EVALUATE\.DIRECTIONS"):
        configured(directions="['sideways']")
    assert Evaluate().directions == ("horizontal", "vertical", "diagonal")
