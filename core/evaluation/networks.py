"""Adapters: any network as a function of images, any images as batches of tensors."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.utils.data import DataLoader, Dataset

from stillpoint.core.base.words import counted
from stillpoint.core.metrics.outputs import as_tensor

#: Keys under which the images, and the labels, of a dictionary batch are looked for, in this order.
IMAGE_KEYS = ("pixel_values", "images", "image", "input_values", "x")
LABEL_KEYS = ("labels", "label", "targets", "target", "y")


def callable_of(net: Any) -> Callable[[Tensor], Any]:
    """`net` as a function of a batch: a module, scripted or not, an exported program or its module, or a function.

    A program exported for a fixed batch size gets batches of that size, the last one padded. ValueError for an object
    that cannot be called.
    """
    if isinstance(net, torch.export.ExportedProgram):
        net = net.module()
    if isinstance(net, fx.GraphModule):
        return _exported(net)
    if not callable(net):
        raise ValueError(f"the network must be a module or a function of images, not {type(net).__name__}")
    return net


def device_of(net: Any) -> torch.device:
    """The device of a network's parameters; the CPU if it has none."""
    tensors = [*net.parameters(), *net.buffers()] if isinstance(net, nn.Module) else []
    return tensors[0].device if tensors else torch.device("cpu")


def _exported(module: fx.GraphModule) -> Callable[[Tensor], Any]:
    placeholders = [node.meta.get("val") for node in module.graph.nodes if node.op == "placeholder"]
    size = placeholders[-1].shape[0] if placeholders and isinstance(placeholders[-1], Tensor) else None
    if not isinstance(size, int):
        return module

    def in_batches(images: Tensor) -> Any:
        outputs = []
        for part in images.split(size):
            filled = torch.cat([part, part[-1:].expand(size - len(part), *part.shape[1:])])
            outputs.append((module(filled), len(part)))
        return _together(outputs)

    return in_batches


def _together(outputs: list[tuple[Any, int]]) -> Any:
    """Concatenates the outputs of several batches, each cut to its number of images."""
    first = outputs[0][0]
    if isinstance(first, Mapping):
        return {key: _together([(output[key], count) for output, count in outputs]) for key in first}
    if isinstance(first, tuple | list):
        return tuple(_together([(output[k], count) for output, count in outputs]) for k in range(len(first)))
    return torch.cat([output[:count] for output, count in outputs]) if isinstance(first, Tensor) else first


def batches(data: Any, labels: Any, batch_size: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yields batches (images, labels or None) from data of any supported kind.

    `data` is a tensor or an array (N, ...), with `labels` or without; a Dataset, read in its order; a DataLoader or
    another iterable whose batches are images, pairs (images, labels) or dictionaries. ValueError for anything else.
    """
    if isinstance(data, Tensor | np.ndarray):
        images = as_tensor(data)
        classes = None if labels is None else _classes(labels, len(images))
        for start in range(0, len(images), batch_size):
            part = slice(start, start + batch_size)
            yield images[part], None if classes is None else classes[part]
        return
    if labels is not None:
        raise ValueError("labels are for a tensor or an array of images; a DataLoader or a Dataset provides its own")
    if isinstance(data, Dataset):
        data = DataLoader(data, batch_size=batch_size)
    if isinstance(data, str | bytes | Mapping | nn.Module) or not isinstance(data, Iterable):
        raise ValueError(
            f"images must be a tensor or an array (N, C, H, W), a Dataset, or a DataLoader, not {type(data).__name__}"
        )
    for batch in data:
        yield _pair(batch)


def _classes(labels: Any, count: int) -> Tensor:
    if not isinstance(labels, Tensor | np.ndarray | list | tuple):
        raise ValueError(f"labels must be a tensor or an array (N,) of class numbers, not {type(labels).__name__}")
    classes = as_tensor(labels)
    if classes.ndim == 0 or len(classes) != count:
        shape = tuple(classes.shape)
        raise ValueError(f"labels must be (N,), one for each of {counted(count, 'image')}, not of shape {shape}")
    return classes


def _pair(batch: Any) -> tuple[Tensor, Tensor | None]:
    if isinstance(batch, Tensor | np.ndarray):
        return as_tensor(batch), None
    if isinstance(batch, Mapping):
        image = next((key for key in IMAGE_KEYS if key in batch), None)
        if image is None:
            raise ValueError(
                f"a batch has the keys {', '.join(map(str, batch))}; images must be one of {', '.join(IMAGE_KEYS)}"
            )
        label = next((key for key in LABEL_KEYS if key in batch), None)
        return as_tensor(batch[image]), None if label is None else as_tensor(batch[label])
    if isinstance(batch, tuple | list) and batch:
        return as_tensor(batch[0]), as_tensor(batch[1]) if len(batch) > 1 else None
    raise ValueError(f"a batch must be images, (images, labels) or a dictionary of them, not {type(batch).__name__}")
