"""The command `maximise`, which draws the images that a trained network responds to most."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from stillpoint.core.base.errors import UserError
from stillpoint.core.runs.layout import Run
from stillpoint.pipelines.commands.base import (
    Command,
    add_device,
    add_json,
    build,
    png,
    print_json,
    run_config,
    tell,
)


def _options(parser: ArgumentParser) -> None:
    parser.add_argument("folder", help="a run's folder, such as results/translations/digits/TwoFullNet/seed0")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--class", dest="label", type=int, metavar="K", help="the image with the highest probability of class K, from 0"
    )
    what.add_argument("--neuron", type=int, metavar="N", help="the image that maximises neuron N, from 0")
    parser.add_argument("--layer", default="fc1", metavar="NAME", help="the linear layer of --neuron (default: fc1)")
    parser.add_argument("--output", type=png, metavar="PNG", help="the image file (default: <network>_<what>.png here)")
    add_device(parser)
    add_json(parser)


def _maximise(args: Namespace) -> int:
    run = Run.of(args.folder)
    config = run_config(run, [])
    if not run.weights.is_file():
        raise UserError(f"{run.weights} does not exist: train the run first")
    from stillpoint.core.base.device import pick, settings
    from stillpoint.core.config.catalogue import info
    from stillpoint.core.evaluation.maximise import class_images, neuron_images, strongest_pair_share
    from stillpoint.core.reporting.figures import picture
    from stillpoint.core.runs.checkpoint import load_weights

    data, where = info(config.data.name), pick(args.device)
    size = config.data.image_size or data.size
    told: dict[str, Any] = {}
    shape, name = (data.channels, size, size), f"{run.pipeline}/{run.model}"
    with settings(where, args.threads):
        net = build(config)
        load_weights(net, run.weights, model=name)
        net.to(where)
        if args.label is not None:
            found = class_images(net, shape, [args.label], device=where)
            what, image = f"class {args.label}", found.images[0]
            told = {"loss": found.losses[0].item(), "probabilities": found.probabilities[0].tolist()}
        else:
            image = neuron_images(net, shape, [args.neuron], layer=args.layer, device=where)[0]
            what = f"neuron {args.neuron} of {args.layer}"
    grey = image.mean(0).cpu()
    told["strongest_pair_share"] = strongest_pair_share(grey[None]).item()
    output = args.output or Path(f"{run.model}_{what.replace(' ', '_')}.png")
    picture(grey.numpy(), output, title=f"{name}, seed {run.seed}: {what}")
    if args.json:
        print_json({"run": str(run.folder), "image": str(output), **told})
        return 0
    if "loss" in told:
        chances = ", ".join(f"{100 * chance:.1f}" for chance in told["probabilities"])
        tell(f"{what}: loss {told['loss']:.2e}, probabilities of all classes (%): {chances}")
    tell(f"share of spectral energy in the strongest pair of frequencies: {told['strongest_pair_share']:.1%}")
    tell(f"written: {output}")
    return 0


COMMANDS = {
    "maximise": Command(
        "draw the image to which a class or neuron responds most",
        _options,
        _maximise,
        (
            "stillpoint maximise results/translations/fashion_mnist/TwoFullNet/seed0 --class 2",
            "stillpoint maximise results/translations/digits/TwoFullNet/seed0 --neuron 17 --output neuron.png",
        ),
    ),
}
