"""Weights and resumable states: written atomically, verified by a digest, never executed.

Weights are safetensors described by their metadata; foreign files are read with ``weights_only=True``. A state is a
torch file followed by its SHA-256; the previous state is kept until the next is safely written.
"""

import hashlib
import json
import os
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor, nn

from stillpoint.core.base.documents import parse_json
from stillpoint.core.base.errors import UserError, listed, printable
from stillpoint.core.base.files import atomic_path, write_atomic
from stillpoint.core.runs.foreign import INERT, fitted, tensors_of

#: The only key of the metadata, because safetensors writes several in random order.
_METADATA = "stillpoint"
_FORMAT = 1
_TRAILER = b"\nstillpoint state, sha256 "
_TRAILER_LENGTH = len(_TRAILER) + 64
#: terminal colour codes in some of torch's messages
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def _content_digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> str:
    state = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        # viewed as bytes, because NumPy has no bfloat16
        state.update(tensor.reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
    return state.hexdigest()


def save_weights(
    path: Path,
    state_dict: Mapping[str, Tensor],
    *,
    model: str,
    config_digest: str,
    epoch: int,
    **more: str | int | float,
) -> None:
    """Writes a network's state_dict as safetensors, atomically; `model` is its full name (``aps/resnet18_aps3``).

    The metadata holds the arguments, the format's version and a digest of everything.
    """
    # cloned, because safetensors refuses tensors that share memory and those that are not contiguous
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in state_dict.items()
    }
    metadata = {"format": _FORMAT, "model": model, "config_digest": config_digest, "epoch": epoch, **more}
    metadata["digest"] = _content_digest(tensors, metadata)
    # through bytes, because safetensors' own writer makes a file that other users cannot read
    write_atomic(path, serialize(tensors, {_METADATA: json.dumps(metadata, sort_keys=True)}))


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    remedy = "fetch or train it again"
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_METADATA)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, ValueError, RuntimeError, AttributeError, MemoryError) as error:
        raise UserError(f"{path} is truncated or damaged ({_first_line(error)}): {remedy}") from None
    if text is None:
        return tensors, {}
    metadata = parse_json(text, f"the metadata of {path}", remedy=remedy, of=dict)
    digest = metadata.pop("digest", None)
    if digest != _content_digest(tensors, metadata):
        raise UserError(f"{path} is damaged (its digest is wrong): {remedy}")
    if not isinstance(metadata.get("model"), str) or not isinstance(metadata.get("epoch"), int):
        raise UserError(f"{path} does not name the network and epoch of its weights: {remedy}")
    return tensors, metadata


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def read_torch(path: Path) -> Any:
    """The content of a foreign torch file, on the CPU: tensors in plain containers; nothing is executed.

    Objects of the plain classes in `foreign.INERT` are replaced by placeholders. Raises `UserError` if the file is
    truncated, damaged, not a torch file, compressed, or refers to any other class or function.
    """
    _refuse_packed(path)
    try:
        with torch.serialization.safe_globals(INERT), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on pickle protocols, which are then read or refused
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a hostile or truncated file may raise anything
        raise UserError(f"{path} was refused: {_cause(error)}") from None


_PROGRAM = "it is a TorchScript program: save the state_dict of its network instead"


def _refuse_packed(path: Path) -> None:
    """Raises `UserError` for a TorchScript program and a compressed zip archive, which torch would unpack whole."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return  # an older file, or a damaged one, which torch's reader reports
    # as torch recognises TorchScript programs, whose code is compressed
    if any(member.filename.endswith("/constants.pkl") for member in members):
        raise UserError(f"{path} was refused: {_PROGRAM}")
    inside = sum(member.file_size for member in members)
    if inside > path.stat().st_size:
        raise UserError(
            f"{path} was refused: it unpacks to {inside:,} bytes, more than the file has; torch.save never compresses"
        )


def _cause(error: Exception) -> str:
    said = str(error)
    if asked := re.search(r"(?:Unsupported global: GLOBAL|unsupported GLOBAL) (\S+)", said):
        return (
            f"it refers to {printable(asked[1])[:100]}, but only tensors in plain containers are read; nothing in it "
            "was executed (if you trust the file, save its state_dict alone)"
        )
    if "TorchScript" in said:
        return _PROGRAM
    return f"it is not a complete torch file of plain tensors ({_COLOURS.sub('', _first_line(error))[:200]})"


def read_tensors(path: str | os.PathLike[str], part: str | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors by name, metadata) of a file of weights: ours, other safetensors, or a torch checkpoint.

    `core.runs.foreign.tensors_of` finds the network within a torch checkpoint (and explains `part`), with a warning if
    there are several; its metadata is empty. Raises `UserError` for a file that is missing, truncated, damaged or of
    another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there are no weights at {path}")
    with path.open("rb") as file:
        start = file.read(9)
    # a zip archive (torch since 1.6) or a pickle of protocol 2 (before)
    if start[:2] not in (b"PK", b"\x80\x02"):
        if start[8:9] != b"{":
            raise UserError(f"{path} is neither a safetensors file nor a torch checkpoint")
        if part is not None:
            raise UserError(f"{path} has no part {part!r}: a safetensors file holds one network")
        return _read_safetensors(path)
    content = read_torch(path)
    try:
        tensors, taken = tensors_of(content, part)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if taken is not None and part is None:
        warnings.warn(
            f"{path} holds several networks: {taken} is used (stillpoint weights convert --part selects another)",
            stacklevel=2,
        )
    return tensors, {}


def fill(
    net: nn.Module,
    state_dict: Mapping[str, Tensor],
    *,
    origin: str,
    model: str = "this network",
    head: str | None = None,
) -> None:
    """Loads `state_dict` strictly, or nothing; the module `head` keeps its weights, whatever `state_dict` has for it.

    `UserError` names tensors that are missing, unexpected, of another shape, not plain numbers or not finite. `origin`
    and `model` name the source and the network in it.
    """
    own = net.state_dict()
    if head is not None:
        own = {name: tensor for name, tensor in own.items() if not name.startswith(f"{head}.")}
        state_dict = {name: tensor for name, tensor in state_dict.items() if not name.startswith(f"{head}.")}
    faults = []
    if missing := [name for name in own if name not in state_dict]:
        faults.append(f"missing {listed(missing)}")
    if unexpected := [name for name in state_dict if name not in own]:
        faults.append(f"unexpected {listed(unexpected)}")
    shapes = [
        f"{name} {tuple(tensor.shape)} instead of {tuple(own[name].shape)}"
        for name, tensor in state_dict.items()
        if name in own and tensor.shape != own[name].shape
    ]
    if shapes:
        faults.append(f"of another shape {listed(shapes)}")
    kinds = {name: _kind(tensor) for name, tensor in state_dict.items() if name in own and _kind(tensor)}
    if kinds:
        faults.append(f"not plain numbers {listed(f'{name} ({kind})' for name, kind in kinds.items())}")
    if faults:
        raise UserError(f"{origin} does not fit {model}: {'; '.join(faults)}")
    # checked in the network's types: a float64 may be too large for float32
    state_dict = {name: tensor.to(own[name].dtype) if name in own else tensor for name, tensor in state_dict.items()}
    # a buffer that is infinite in the network itself may be infinite here
    if broken := sorted({*not_finite(state_dict)} - {*not_finite(own)}):
        raise UserError(f"{origin} holds numbers that are not finite, in {listed(broken)}: it cannot be loaded")
    net.load_state_dict(state_dict, strict=head is None)


def _kind(tensor: Tensor) -> str:
    """Why a tensor cannot be loaded into a network; "" for plain real numbers."""
    if tensor.is_complex():
        return "complex"
    if tensor.is_meta:
        return "without its numbers"
    if tensor.is_quantized:
        return "quantized"
    if tensor.layout != torch.strided:
        return "sparse"
    try:
        tensor.new_empty(1).to(torch.float32)
    except (NotImplementedError, RuntimeError):  # a low-precision type for storage only
        return str(tensor.dtype).removeprefix("torch.")
    return ""


def not_finite(tensors: Mapping[str, Any]) -> list[str]:
    """The names of the floating tensors that hold an infinity or NaN."""
    names = [name for name, one in tensors.items() if isinstance(one, Tensor) and one.is_floating_point()]
    whole = torch.stack([tensors[name].isfinite().all() for name in names]).tolist() if names else []
    return [name for name, good in zip(names, whole, strict=True) if not good]


def load_weights(net: nn.Module, path: str | os.PathLike[str], *, model: str | None = None) -> dict[str, Any]:
    """Fills `net` from a file (see `read_tensors`) and returns its metadata.

    Names are tried unchanged, then without the prefixes of wrappers. With `model` (full name), weights saved for
    another network are refused even if every name and shape fits: networks that differ only in their blur have the same
    parameters. Raises `UserError` for these, and as `read_tensors` and `fill` do.
    """
    tensors, metadata = read_tensors(path)
    saved = metadata.get("model")
    if model and saved and saved != model:
        raise UserError(f"{path} holds the weights of {saved}, not of {model}")
    context = {"origin": f"{path}{f' ({saved})' if saved else ''}", "model": model or "this network"}
    fitted(tensors, net.state_dict().keys(), lambda given: fill(net, given, **context))
    return metadata


def start_from(
    net: nn.Module,
    path: str,
    model: str,
    head: Literal["same", "new"] = "same",
    translate: Callable[[dict[str, Tensor], nn.Module], dict[str, Tensor]] | None = None,
) -> None:
    """Fills `net` from the weights of any network with the same tensor names, to start a training.

    `translate` renames the tensors of a foreign file to the names of `net`. With the head "new", the last layer (see
    `head_of`) is not loaded, and the file may have any number of classes.
    """
    tensors, _ = read_tensors(path)
    kept = head_of(net) if head == "new" else None
    context = {"origin": path, "model": model}
    if translate is not None:
        fill(net, translate(tensors, net), head=kept, **context)
    else:
        fitted(tensors, net.state_dict().keys(), lambda given: fill(net, given, head=kept, **context))


def head_of(net: nn.Module) -> str:
    """The name of the last layer of `net`: its last module with parameters."""
    return [name for name, module in net.named_modules() if [*module.parameters(recurse=False)]][-1]


def load_own(net: nn.Module, path: Path, *, model: str) -> int:
    """Fills `net` from the weights of a run of `model`, and returns their epoch; `UserError` for any other file."""
    metadata = load_weights(net, path, model=model)
    if "epoch" not in metadata:
        raise UserError(f"{path} does not name its epoch, so no run wrote it: train it again")
    return metadata["epoch"]


def previous(path: Path) -> Path:
    """The path of the state before the one at `path`."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Writes `state` (tensors in plain containers) with its digest; the state at `path` becomes the previous one."""
    with atomic_path(path) as temporary:
        torch.save({"format": _FORMAT, **state}, temporary)
        with temporary.open("rb+") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            file.write(_TRAILER + digest.encode())
            file.flush()
            os.fsync(file.fileno())
        # from here until atomic_path renames the new file, only the previous state exists, and it is complete
        if path.exists():
            path.replace(previous(path))


def _read_state(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(size - _TRAILER_LENGTH, 0))
        trailer = file.read()
        # a large file that is not a state is refused before it is read whole
        if not trailer.startswith(_TRAILER):
            raise UserError(f"{path} is truncated, damaged or not a run's state")
        file.seek(0)
        state = hashlib.sha256()
        left = max(size - _TRAILER_LENGTH, 0)
        while left and (block := file.read(min(left, 1 << 20))):
            state.update(block)
            left -= len(block)
    if trailer != _TRAILER + state.hexdigest().encode():
        raise UserError(f"{path} is truncated, damaged or not a run's state")
    content = read_torch(path)
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise UserError(f"{path} was written by another version of this program")
    return content


def load_state(path: Path) -> tuple[dict[str, Any] | None, str | None]:
    """(state, None); (None, None) if there is none; (previous state, a message) if the last one is damaged.

    Raises `UserError` if there are states but all are damaged.
    """
    kept = previous(path)
    try:
        if path.exists():
            return _read_state(path), None
    except UserError as fault:
        if not kept.exists():
            raise UserError(f"{fault}, and there is no previous state: remove it to start from scratch") from None
        try:
            state = _read_state(kept)
        except UserError as second:
            raise UserError(f"{fault}; {second}: remove both to start from scratch") from None
        # the damaged file must not become the previous state when the next one is written
        kept.replace(path)
        return state, f"{fault}: the previous state is used"
    if not kept.exists():
        return None, None
    try:
        return _read_state(kept), f"{path} is missing: the previous state is used"
    except UserError as fault:
        raise UserError(f"{path} is missing and {fault}: remove it to start from scratch") from None
