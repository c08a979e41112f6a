"""Every layer leaves the house: scripted, traced, exported for any batch and size, compiled, built without numbers and
filled."""

import copy
import io

import pytest
import torch
from torch import Tensor, nn

from tests.core.layers.cases import CASES, inputs

NAMES = sorted(CASES)
#: the step of a dictionary belongs to the size of the image; what is exported takes it as a number
MEASURED = {"SparseCoding1d", "SparseCoding2d"}
#: cropped about the centre of two sizes: as symbols they take minutes to solve, and are exported for one size here
CROPPED = {"TwinStem", "WaveletTwin2d"}
#: sizes that the layer itself refuses
MULTIPLES = {"Scattering2d": 4, "AttentionScorer": 2, "ConvScorer": 2, "GraphScorer": 2, "PerceptronScorer": 2}
traced = pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.torch.jit:FutureWarning")


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    return CASES[name][0]().eval()


def resized(name: str, given: list[Tensor], more: int) -> list[Tensor]:
    """Another batch, and images larger by some pixels along both axes; phases as many as images."""
    step = more * MULTIPLES.get(name, 1)
    twice = [torch.cat([x, x.flip(0), x]) for x in given]
    return [nn.functional.pad(x, (0, step, 0, step)) if x.ndim > 3 else x for x in twice]


@pytest.mark.parametrize("name", NAMES)
def test_an_exported_layer_takes_any_batch_and_where_it_can_any_height_and_width(name: str) -> None:
    layer, given = made(name), inputs(name)
    free = torch.export.Dim.DYNAMIC
    axes = [{0: free} if x.ndim < 4 else {0: free, x.ndim - 2: free, x.ndim - 1: free} for x in given]
    # a size that must be a multiple is no free size to an exporter
    fixed = name in MEASURED | CROPPED | set(MULTIPLES)
    if fixed:
        axes = [{0: free} for _ in given]
    program = torch.export.export(layer, tuple(given), dynamic_shapes=tuple(axes)).module()
    for more in (0,) if fixed else (0, 1, 2):
        other = resized(name, given, more)
        torch.testing.assert_close(program(*other), layer(*other))


@traced
@pytest.mark.parametrize("name", NAMES)
def test_a_traced_layer_takes_any_batch(name: str) -> None:
    layer, given = made(name), inputs(name)
    network, other = torch.jit.trace(layer, tuple(given)), resized(name, given, 0)
    torch.testing.assert_close(network(*other), layer(*other))


@traced
@pytest.mark.parametrize("name", NAMES)
def test_a_scripted_layer_takes_any_batch_height_and_width_and_is_written_to_a_file(name: str) -> None:
    layer, given = made(name), inputs(name)
    kept = io.BytesIO()
    torch.jit.save(torch.jit.script(layer), kept)
    kept.seek(0)
    network = torch.jit.load(kept)
    for more in (0, 1, 2):
        other = resized(name, given, more)
        torch.testing.assert_close(network(*other), layer(*other))


@pytest.mark.parametrize("name", NAMES)
def test_a_compiled_layer_has_no_graph_break(name: str) -> None:
    torch._dynamo.reset()
    layer, given = made(name), inputs(name)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    # the second differs in batch and size at once: one graph of fixed sizes, and one of free ones
    for other in (given, resized(name, given, 2)):
        torch.testing.assert_close(compiled(*other), layer(*other))


@pytest.mark.parametrize("context", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_a_layer_built_without_numbers_is_whole_with_its_checkpoint(name: str, context: bool) -> None:
    layer, given = made(name), inputs(name)
    if context:
        with torch.device("meta"):
            empty = made(name)
    else:
        empty = copy.deepcopy(layer).to("meta")
    assert all(tensor.is_meta for tensor in (*empty.parameters(), *empty.buffers()))
    empty.to_empty(device="cpu").load_state_dict(layer.state_dict())
    torch.testing.assert_close(empty(*given), layer(*given), rtol=0, atol=0)
