"""Writes a kept run's card: ``card.json`` for programs, and ``card.md`` with the same content for people."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stillpoint.core.base.documents import read_json
from stillpoint.core.base.files import digest, json_text
from stillpoint.core.base.words import counted
from stillpoint.core.reporting.writing import Markdown, escaped, markdown_page, markdown_table
from stillpoint.core.runs.cards import FILES, FORM, STORE, again, fetching
from stillpoint.core.runs.layout import Run


def card_texts(run: Run, card: Mapping[str, Any]) -> dict[Path, str]:
    """The contents of ``card.json`` and ``card.md`` for a run whose other files are in its folder."""
    from stillpoint.core.config.merge import read_settings

    held = {name: digest(run.folder / name) for name in FILES if (run.folder / name).is_file()}
    whole = {"form": FORM, **card, "files": held}
    metrics, training = (read_json(path, of=dict) for path in (run.metrics, run.training))
    said = {**whole, "config": read_settings(run.config), "metrics": metrics, "training": training}
    return {run.card: json_text(whole), run.page: card_page(said)}


def card_page(said: Mapping[str, Any]) -> str:
    """A kept run (see `cards.about`) as Markdown."""
    config, metrics, training, kept = said["config"], said["metrics"], said["training"], said["weights"]
    title = f": {escaped(config['TITLE'])}" if config.get("TITLE") else ""
    lines = {
        "Source of the network": said["source"] or "none",
        "Data": Markdown(f"{escaped(metrics['dataset'])} (digest `{metrics['provenance']['data_digest'][:16]}`)"),
        "Recipe": Markdown(f"`{said['recipe']}`{title}"),
        "Seed, epoch": f"{said['seed']}, {said['epoch']} of {config['TRAIN']['EPOCHS']}",
        "Parameters": f"{metrics['parameters']:,}",
        "Weights": Markdown(_weights(said)),
        "Trained by": Markdown(
            f"{_code(training)}, torch {escaped(training['torch'])}, {escaped(training['device'])}, "
            f"{training['seconds']:.0f} s"
        ),
    }
    return markdown_page(
        f"{said['model']}, seed {said['seed']}",
        markdown_table(("", ""), lines.items()),
        f"Measured on {counted(metrics['images'], 'test image')}{', with the kept weights' * bool(kept)}:",
        _numbers(metrics["trained"], said["before_rounding"]),
        _commands(said),
    )


def _code(training: Mapping[str, Any]) -> str:
    if not training["commit"]:
        return f"stillpoint {escaped(training.get('stillpoint') or 'of an unknown version')}, outside its repository"
    return f"commit `{training['commit']}`{'' if training['clean'] else ' and uncommitted changes'}"


def _weights(said: Mapping[str, Any]) -> str:
    kept = said["weights"]
    if not kept:
        return f"not kept; full weights had the digest `{said['weights_digest'][:16]}`"
    stored = f"{escaped(kept['precision'])}, {kept['bytes']:,} bytes, SHA-256 `{kept['sha256']}`"
    if kept["remote"] == STORE:
        return stored
    return f"{stored}, in the DVC remote {escaped(kept['remote'])}, not in the clone"


def _numbers(metrics: Mapping[str, float], before: Mapping[str, float]) -> str:
    head = ("metric", "value", "before rounding")[: 3 if before else 2]
    rows = [
        (key.replace("_", " "), f"{value:.6g}", f"{before[key]:.6g}" if key in before else "")[: len(head)]
        for key, value in metrics.items()
    ]
    return markdown_table(head, rows)


def _commands(said: Mapping[str, Any]) -> str:
    paper, _, network = said["model"].partition("/")
    commands = {again(said): "trains them again"}
    if said["weights"]:
        weights = f"runs/{paper}/{said['recipe']}/{network}/seed{said['seed']}/weights.safetensors"
        commands = {
            fetching(said, weights): "fetches the weights",
            f"stillpoint evaluate {said['model']} --pretrained": "measures them again and compares",
            **commands,
        }
    width = max(map(len, commands))
    return "\n".join(["```sh", *(f"{command:<{width}}  # {does}" for command, does in commands.items()), "```"])
