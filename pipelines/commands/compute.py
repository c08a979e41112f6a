"""The commands train and evaluate."""

import time
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from stillpoint import pipelines
from stillpoint.core.base.errors import UserError
from stillpoint.core.base.words import counted
from stillpoint.core.runs.layout import Run, seeds_there
from stillpoint.pipelines.commands.base import (
    Command,
    add_device,
    add_json,
    add_places,
    add_recipe,
    build,
    configured,
    console,
    print_json,
    recipe_of,
    reported,
    run_config,
    tell,
)

if TYPE_CHECKING:
    from stillpoint.core.config.schema import RunConfig
    from stillpoint.core.training.train import Progress


def _add_workers(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--workers",
        type=int,
        default=0,
        metavar="N",
        help="number of worker processes that read photographs (default: 0)",
    )


def _add_workflow(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--workflow",
        action="store_true",
        help="replace only a workflow's run of these settings whose code or data have changed (used by Snakemake)",
    )


def _train_options(parser: ArgumentParser) -> None:
    parser.add_argument("network", help="pipeline/model, such as aps/resnet20_aps1")
    add_recipe(parser)
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of weights, order of images and augmentation (default: 0)"
    )
    add_places(parser)
    add_device(parser)
    _add_workers(parser)
    parser.add_argument("--anew", action="store_true", help="remove the run's results and start from scratch")
    parser.add_argument(
        "--from-epoch",
        type=int,
        metavar="N",
        help="go back to the snapshot of epoch N (see TRAIN.SNAPSHOTS) and train again from there",
    )
    _add_workflow(parser)


def _train(args: Namespace) -> int:
    config = configured(args.network, args, args.seed)
    from stillpoint.core.runs.records import rewind
    from stillpoint.core.training.train import train
    from stillpoint.pipelines.workflow import stage_code

    if args.anew and args.workflow:
        raise UserError("--anew excludes --workflow: stillpoint run has its own --anew")
    if args.from_epoch is not None and (args.anew or args.workflow):
        raise UserError(f"--from-epoch excludes --{'anew' if args.anew else 'workflow'}: leave one out")
    run = Run(config.pipeline, recipe_of(args), config.model.name, config.seed, args.results)
    with _training_display(config.train.epochs) as progress:
        if args.from_epoch is not None:
            rewind(config, run, args.from_epoch, progress)
        rows = train(
            config,
            run,
            build=build,
            data_root=args.data,
            device=args.device,
            threads=args.threads,
            workers=args.workers,
            resume=not args.anew,
            progress=progress,
            hooks=pipelines.paper(config.pipeline).hooks(config),
            code=stage_code("train", config.pipeline, config.data.name),
            workflow=args.workflow,
        )
    if rows:
        last = rows[-1]
        told = f"training {_reached(last, 'train')}"
        if last.get("val_loss") not in (None, ""):
            told += f", validation {_reached(last, 'val')}"
        tell(f"{args.network}, seed {config.seed}: {counted(len(rows), 'epoch')}, {told}")
    tell(f"next: stillpoint evaluate {run.folder}")
    return 0


def _reached(row: dict[str, Any], part: str) -> str:
    """The result of an epoch: its accuracy, or its loss if the targets are images."""
    accuracy = row[f"{part}_accuracy"]
    return f"loss {row[f'{part}_loss']:.4f}" if accuracy in (None, "") else f"accuracy {accuracy:.2%}"


class _training_display:
    """A progress bar over the epochs on a terminal; elsewhere one line per epoch."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def __enter__(self) -> "Progress":
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        from stillpoint.core.reporting.progress import clock, remaining
        from stillpoint.core.training.train import Progress

        out, epochs = console(), self.epochs
        columns = (
            TextColumn("epoch", markup=False),
            MofNCompleteColumn(),
            BarColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}", markup=False),
        )
        # the speed is averaged over the whole training, so that it includes validation and reading
        period = 86_400.0
        options: dict[str, Any] = {"transient": True, "speed_estimate_period": period}
        bars = self.bars = Bars(*columns, console=out, disable=not out.is_terminal, **options)
        bars.start()
        task = bars.add_task("", total=epochs)

        seen: list[tuple[float, float]] = []

        class Display(Progress):
            def on_note(self, sentence: str) -> None:
                out.print(sentence, soft_wrap=True)

            def on_step(self, epoch: int, step: int, steps: int, loss: float, images_per_second: float) -> None:
                if not seen:
                    # estimates count from here: the first step also compiled kernels, and a resumed run's epochs took
                    # none of this time
                    seen.append((time.monotonic(), (epoch - 1 + step / steps) / epochs))
                shown = f"loss {loss:.3f}, {images_per_second:.0f} images/s"
                bars.update(task, completed=epoch - 1 + step / steps, description=shown)

            def on_epoch(self, row: dict[str, float | None]) -> None:
                seen.append((time.monotonic(), float(row["epoch"] or 0) / epochs))
                left = remaining(seen[-1][1], seen[0][1], seen[-1][0] - seen[0][0])
                out.print(
                    f"epoch {row['epoch']:.0f}/{epochs}: loss {row['train_loss']:.4f}"
                    + ("" if row["train_accuracy"] is None else f", accuracy {row['train_accuracy']:.2%}")
                    + ("" if left is None or out.is_terminal else f", about {clock(left)} left")
                )

        return Display()

    def __exit__(self, *error: object) -> None:
        self.bars.stop()


def _evaluate_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "folder",
        help="a run's folder, such as results/aps/digits/resnet20_aps1/seed0; with --pretrained: pipeline/model",
    )
    parser.add_argument(
        "--pretrained",
        action="store_true",
        help="measure the kept weights of a network and compare with their card",
    )
    parser.add_argument(
        "--status",
        default="weights",
        metavar="WHICH",
        help="weights (the kept ones), checkpoint (the last state), best (with TRAIN.KEEP best), or e<N>, the "
        "snapshot of epoch N (default: weights)",
    )
    parser.add_argument(
        "--recipe",
        metavar="NAME",
        help="measure by this recipe's current EVALUATE section, not the run's; with --pretrained: recipe of the kept "
        "weights",
    )
    parser.add_argument("--data", metavar="DIR", help="folder of the data (default: $STILLPOINT_DATA, or data)")
    add_device(parser)
    _add_workers(parser)
    _add_workflow(parser)
    add_json(parser)


def _evaluate(args: Namespace) -> int:
    if args.pretrained:
        from stillpoint.pipelines.commands.release import evaluate_pretrained

        return evaluate_pretrained(args)
    run = Run.of(args.folder)
    if not run.config.is_file():
        raise UserError(f"{run.folder} does not exist or holds no run{seeds_there(run.folder)}: train it first")
    if args.status == "weights" and not run.weights.is_file():
        raise UserError(
            f"{run.folder} has no weights: train the run first "
            f"(stillpoint train {run.pipeline}/{run.model} --recipe {run.recipe} --seed {run.seed})"
        )
    config = (
        pipelines.configure(f"{run.pipeline}/{run.model}", args.recipe, args.pairs, run.seed)
        if args.recipe
        else run_config(run, args.pairs)
    )
    with reported(f"measuring {run.pipeline}/{run.model}, seed {run.seed}", quiet=args.json) as progress:
        from stillpoint.core.evaluation.run import evaluate_run
        from stillpoint.pipelines.workflow import stage_code

        found = evaluate_run(
            run,
            config=config,
            build=build,
            evaluations=pipelines.paper(config.pipeline).evaluations(config),
            data_root=args.data,
            device=args.device,
            threads=args.threads,
            workers=args.workers,
            progress=progress,
            status=args.status,
            code=stage_code("evaluate", config.pipeline, config.data.name),
            workflow=args.workflow,
            after=lambda measured: pipelines.paper(config.pipeline).measured(config, measured),
        )
        run = run.at(args.status)
    if args.json:
        print_json(found)
        return 0
    _print_metrics(run, config, found)
    return 0


def _print_metrics(run: Run, config: "RunConfig", found: dict[str, Any]) -> None:
    from rich.table import Column, Table

    from stillpoint.core.reporting.columns import described, show, show_plain
    from stillpoint.core.reporting.reading import STATES
    from stillpoint.core.runs.records import TOLD

    states = [state for state in STATES if found.get(state)]
    grid = Table(
        *(Column(name, overflow="fold") for name in ("metric", *states)),
        title=f"{run.pipeline}/{run.model}, seed {run.seed}" + (f", {found['status']}" if "status" in found else ""),
        title_justify="left",
        title_style="bold",
        caption=f"{found['images']:,} images of {found['dataset']}",
        caption_justify="left",
    )
    columns = pipelines.paper(run.pipeline).shown(config).columns
    for key in dict.fromkeys(key for state in states for key in found[state]):
        column = described(key, columns)
        values = [found[state].get(key) for state in states]
        if column is None:
            grid.add_row(key.replace("_", " "), *("" if value is None else show_plain(value) for value in values))
            continue
        grid.add_row(column.heading, *(show(column, None if v is None else v * column.scale) for v in values))
    out = console()
    out.print(grid)
    skipped = found.get("skipped", ())
    for sentence in skipped[:TOLD]:
        tell(f"left out: {sentence}")
    if len(skipped) > TOLD:
        tell(f"left out: {len(skipped)} photographs in all, listed in {run.metrics}")
    tell(f"written: {run.metrics}, {run.maps}")


COMMANDS = {
    "train": Command(
        "train one network, or resume an interrupted run",
        _train_options,
        _train,
        (
            "stillpoint train aps/resnet20_aps1 --recipe digits",
            "stillpoint train aps/resnet18_aps3 --recipe cifar10_crop_shifted --seed 1 --device cuda",
            "stillpoint train aps/resnet20_lpf3 TRAIN.EPOCHS 2 TRAIN.LR 0.05 --results trial",
            "torchrun --nproc-per-node 4 -m stillpoint train aps/resnet18_aps1 --recipe imagenet",
        ),
        takes_pairs=True,
    ),
    "evaluate": Command(
        "measure a trained run: accuracy and consistency",
        _evaluate_options,
        _evaluate,
        (
            "stillpoint evaluate results/aps/digits/resnet20_aps1/seed0",
            "stillpoint evaluate results/aps/digits/resnet20/seed0 EVALUATE.METRICS \"['accuracy','fractional']\"",
            "stillpoint evaluate results/aps/cifar10/resnet18_aps1/seed0 --json EVALUATE.PROTOCOL authors",
            "stillpoint evaluate results/wavelet_twins/cifar10/R34wyC/seed0 --status e120",
        ),
        takes_pairs=True,
        pairs="EVALUATE.REPEATS 3",
    ),
}
