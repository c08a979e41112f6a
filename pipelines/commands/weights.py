"""The command weights: converts foreign checkpoints, and fetches published ones."""

import hashlib
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from stillpoint import pipelines
from stillpoint.core.base.errors import UserError, checked, nearest
from stillpoint.pipelines.commands.base import Command, bars, build, remove_left, tell

if TYPE_CHECKING:
    from torch import Tensor, nn

TIMEOUT = 30  # seconds without a byte
#: largest download in bytes, three times the largest published network
LARGEST = 2 << 30


def _options(parser: ArgumentParser) -> None:
    inner = parser.add_subparsers(dest="what", metavar="convert | fetch", required=True)
    convert = inner.add_parser(
        "convert", help="convert a checkpoint of torchvision or of a paper's authors to safetensors"
    )
    convert.add_argument("source", type=Path, metavar="IN", help="the checkpoint: .pth, .pth.tar, .safetensors")
    convert.add_argument("target", type=Path, metavar="OUT.safetensors", help="the file to write")
    convert.add_argument(
        "--model",
        metavar="NAME",
        help="the network that it must fit, such as blurpool/resnet50_lpf4; its tensors are renamed and checked "
        "(default: names are kept)",
    )
    convert.add_argument(
        "--dataset", default="imagenet", metavar="NAME", help="the data set of the network (default: imagenet)"
    )
    convert.add_argument(
        "--part",
        metavar="KEY",
        help="key of the network, if the checkpoint holds several: state_dict_ema, ...",
    )
    convert.set_defaults(work=_convert)
    fetch = inner.add_parser("fetch", help="fetch a paper's published checkpoint, verified by its hash")
    fetch.add_argument("name", metavar="NAME", help="a published network, such as blurpool/resnet50_lpf4_finetune")
    fetch.add_argument("--to", type=Path, metavar="DIR", help="target folder (default: weights in the data root)")
    fetch.add_argument("--address", metavar="URL", help="fetch from a copy of the published folder at this address")
    fetch.set_defaults(work=_fetch)


def _weights(args: Namespace) -> int:
    return args.work(args)


def _convert(args: Namespace) -> int:
    if args.target.suffix != ".safetensors":
        raise UserError(f"{args.target} must end in .safetensors, the format of the output")
    if args.target.exists() and args.source.exists() and args.target.samefile(args.source):
        raise UserError(f"{args.target} is the checkpoint itself: give the output another name")
    if args.model is None:
        return _strip(args)
    config = pipelines.without_recipe(args.model, args.dataset, args.pairs)
    from stillpoint.core.runs.checkpoint import fill, read_tensors, save_weights
    from stillpoint.core.runs.records import model_name

    model = model_name(config)  # settings can change the named network
    tensors, found = read_tensors(args.source, args.part)
    if found.get("model") not in (None, model):
        raise UserError(f"{args.source} holds the weights of {found['model']}, not of {model}")
    net = build(config)
    try:
        with checked():
            state = ours(config.pipeline, tensors, net)
    except UserError as error:
        raise UserError(f"{args.source} does not fit {model}: {error}") from None
    fill(net, state, origin=str(args.source), model=model)
    origin = hashlib.sha256(args.source.read_bytes()).hexdigest()
    save_weights(
        args.target, net.state_dict(), model=model, config_digest=config.digest(), epoch=0, converted_from=origin
    )
    tell(f"written: {args.target} ({len(state)} tensors of {model})")
    return 0


def _strip(args: Namespace) -> int:
    """Writes a checkpoint's tensors of the network, with unchanged names."""
    if args.pairs:
        raise UserError(f"settings such as {args.pairs[0]} need a network: add --model")
    from safetensors.torch import save

    from stillpoint.core.base.files import write_atomic
    from stillpoint.core.runs.checkpoint import read_tensors

    tensors, _ = read_tensors(args.source, args.part)
    origin = hashlib.sha256(args.source.read_bytes()).hexdigest()
    # cloned, because safetensors refuses tensors that share memory
    whole = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    write_atomic(args.target, save(whole, {"converted_from": origin}))
    note = "with unchanged names; --model NAME checks them"
    tell(f"written: {args.target} ({len(whole)} tensors, {note})")
    return 0


def ours(paper: str, tensors: "dict[str, Tensor]", net: "nn.Module") -> "dict[str, Tensor]":
    """`tensors` under the names of `net`: unchanged if they fit, otherwise translated by the paper."""
    if tensors.keys() == net.state_dict().keys():
        return tensors
    return pipelines.paper(paper).translated(tensors, net)


def published(name: str) -> tuple[str, str, str]:
    """(address of the folder, name of the file, first digits of its SHA-256) of ``paper/checkpoint``."""
    name_of_paper, _, checkpoint = name.partition("/")
    paper = pipelines.paper(name_of_paper)
    stated = paper.published.weights
    if stated is None:
        raise UserError(f"{paper.name} has no published weights to fetch")
    if checkpoint not in stated.files:
        known = [f"{paper.name}/{file}" for file in stated.files]
        raise UserError(
            f"{paper.name} publishes no weights {checkpoint!r}{nearest(name, known)} (see: {paper.published_file})"
        )
    digits = stated.files[checkpoint]
    return stated.address, f"{checkpoint}-{digits}.pth", digits


def _fetch(args: Namespace) -> int:
    if args.pairs:
        raise UserError(f"weights fetch takes no settings, such as {args.pairs[0]}")
    from stillpoint.core.config.catalogue import data_root

    address, file, digits = published(args.name)
    target = (args.to or data_root() / "weights") / file
    remove_left(target.parent)
    if target.is_file():
        with target.open("rb") as content:
            whole = hashlib.file_digest(content, "sha256").hexdigest().startswith(digits)
        if whole:
            tell(f"already there: {target}")
            return 0
    download((args.address or address).rstrip("/") + "/" + file, target, digits)
    tell(f"written: {target}; next: stillpoint weights convert {target} ...")
    return 0


def download(address: str, target: Path, digits: str) -> None:
    """Downloads a file whose SHA-256 begins with `digits` to `target`, atomically.

    Raises `UserError` if the server refuses, cannot be reached, breaks off, sends more than announced or than
    `LARGEST`, or sends another file.
    """
    from http.client import HTTPException
    from urllib.error import HTTPError, URLError
    from urllib.request import urlopen

    from rich.progress import DownloadColumn, TransferSpeedColumn

    from stillpoint.core.base.files import atomic_path

    state, done = hashlib.sha256(), 0
    try:
        with urlopen(address, timeout=TIMEOUT) as answer, atomic_path(target) as temporary:
            length = int(answer.headers.get("Content-Length") or 0)
            most = min(length or LARGEST, LARGEST)
            if length > LARGEST:
                raise UserError(f"{address} announces {length:,} bytes, more than the allowed {LARGEST:,}")
            with bars(DownloadColumn(), TransferSpeedColumn()) as shown, temporary.open("wb") as file:
                task = shown.add_task(target.name, total=length or None)
                while block := answer.read(1 << 20):
                    done += len(block)
                    if done > most:
                        raise UserError(f"{address} sends more than {most:,} bytes: nothing was saved")
                    file.write(block)
                    state.update(block)
                    shown.update(task, completed=done)
            if length and done != length:
                raise UserError(f"{address} broke off after {done} of {length} bytes: try again")
            if not state.hexdigest().startswith(digits):
                raise UserError(
                    f"{address} is not the published file: its SHA-256 begins with {state.hexdigest()[: len(digits)]}, "
                    f"not {digits}; nothing was saved"
                )
    except HTTPError as error:
        raise UserError(
            f"the server refuses {address} (HTTP {error.code} {error.reason}): name a copy with --address, or convert "
            "one with stillpoint weights convert"
        ) from None
    except (URLError, TimeoutError, ConnectionError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(f"{address} cannot be reached ({reason}): check the network connection") from None
    except ValueError as error:
        raise UserError(f"{address} is not an address: {error}") from None


COMMANDS = {
    "weights": Command(
        "fetch published weights, convert foreign checkpoints",
        _options,
        _weights,
        (
            "stillpoint weights fetch blurpool/resnet50_lpf4_finetune",
            "stillpoint weights convert checkpoint.pth.tar weights.safetensors",
            "stillpoint weights convert resnet50_lpf4-994b528f.pth lpf4.safetensors --model blurpool/resnet50_lpf4",
            "stillpoint weights convert best.pth.tar vgg13.safetensors --model blurpool/vgg13_bn --dataset cifar10",
        ),
        takes_pairs=True,
        pairs="MODEL.FILTER_SIZE 5",
    ),
}
