"""A layer is a function of its weights and its input: a second forward, a repeated one and a transformed one agree.

What batch statistics do to a running mean is aside: these networks keep theirs between the forwards that are compared.
"""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from stillpoint import pipelines
from stillpoint.core.layers import SparseCoding1d, SparseCoding2d
from tests import fresh
from tests.core.layers.cases import CASES, inputs

NAMES = sorted(CASES)
both = pytest.mark.parametrize("training", [True, False])


def made(name: str, training: bool) -> nn.Module:
    torch.manual_seed(0)
    return CASES[name][0]().train(training)


def loss(y: Tensor | tuple[Tensor, ...]) -> Tensor:
    y = y if isinstance(y, Tensor) else y[0]
    return (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum()


def found(layer: nn.Module, given: list[Tensor], call: Callable[..., Tensor] | None = None) -> list[Tensor]:
    """The result, and the gradients of input and weights."""
    x = given[0].clone().requires_grad_()
    weights = list(layer.parameters())
    y = (call or layer)(x, *given[1:])
    return [y.detach(), *torch.autograd.grad(loss(y), [x, *weights], allow_unused=True)]


def same(got: list[Tensor], want: list[Tensor]) -> None:
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@both
@pytest.mark.parametrize("name", NAMES)
def test_a_second_forward_gives_the_same(name: str, training: bool) -> None:
    layer, given = made(name, training), inputs(name)
    first = found(layer, given)
    found(layer, [inputs(name, seed=1)[0], *given[1:]])  # other images, the same weights
    second = found(layer, given)
    for one, other in zip(first, second, strict=True):
        assert one is other is None or torch.equal(one, other)


@both
@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_gradient_checkpointing_gives_the_same(name: str, reentrant: bool, training: bool) -> None:
    layer, given = made(name, training), inputs(name)
    want = found(copy.deepcopy(layer), given)
    got = found(layer, given, lambda *x: checkpoint(layer, *x, use_reentrant=reentrant)) if not reentrant else None
    if reentrant:  # its weights have no gradient but by a backward
        x = given[0].clone().requires_grad_()
        y = checkpoint(layer, x, *given[1:], use_reentrant=True)
        loss(y).backward()
        got = [y.detach(), x.grad, *(weight.grad for weight in layer.parameters())]
    assert got is not None
    same(got, want)


@both
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_torch_func_gives_the_same_on_new_weights_and_on_those_of_a_forward(name, after, training) -> None:
    layer, given = made(name, training), inputs(name)
    twin = copy.deepcopy(layer)
    want = found(twin, given)
    called = twin if after else layer
    names = [key for key, _ in called.named_parameters()]
    weights = {key: value.detach().clone() for key, value in called.named_parameters()}
    # statistics of batches move in place: they are an argument, and not the layer's own
    state = {key: value.clone() for key, value in called.named_buffers()}
    before = {key: value.clone() for key, value in called.state_dict().items()}

    def of(x: Tensor, weights: dict[str, Tensor], state: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        y = torch.func.functional_call(called, (weights, state), (x, *given[1:]))
        return loss(y), y

    (for_x, for_weights), y = torch.func.grad(of, argnums=(0, 1), has_aux=True)(given[0], weights, state)
    # a parameter that nothing depends on has no gradient in autograd, and zeros here
    exact = [torch.zeros_like(w) if g is None else g for g, w in zip(want[2:], weights.values(), strict=True)]
    same([y, for_x, *(for_weights[key] for key in names)], [*want[:2], *exact])
    after_it = called.state_dict()
    assert all(torch.equal(after_it[key], value) for key, value in before.items())


#: layers whose batch statistics look at all images at once
STATISTICS = {"AdaptiveBlur2d", "ModulusBatchNorm2d"}


@both
@pytest.mark.parametrize("name", sorted(set(NAMES) - STATISTICS))
def test_gradients_of_each_image_by_vmap_are_those_of_the_image(name: str, training: bool) -> None:
    layer, (x, *rest) = made(name, training), inputs(name)
    weights = {key: value.detach() for key, value in layer.named_parameters()}

    def of(weights: dict[str, Tensor], x: Tensor, *rest: Tensor) -> Tensor:
        return loss(torch.func.functional_call(layer, weights, (x[None], *(other[None] for other in rest))))

    per_image = torch.func.vmap(torch.func.grad(of), in_dims=(None, 0, *[0] * len(rest)))(weights, x, *rest)
    for n, image in enumerate(x):
        want = found(copy.deepcopy(layer), [image[None], *(other[n : n + 1] for other in rest)])[2:]
        got = [value[n] for value in per_image.values()]
        # a parameter that nothing depends on has no gradient in autograd, and zeros here
        same(got, [torch.zeros_like(g) if w is None else w for g, w in zip(got, want, strict=True)])


def test_stacked_dictionaries_in_training_are_those_of_their_layers() -> None:
    stack = [made("SparseCoding2d", True) for _ in range(3)]
    for n, layer in enumerate(stack):
        nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(n))
    (x,) = inputs("SparseCoding2d")
    weights, buffers = torch.func.stack_module_state(stack)
    template = copy.deepcopy(stack[0])
    got = torch.func.vmap(lambda w, b: torch.func.functional_call(template, (w, b), (x,)))(weights, buffers)
    torch.testing.assert_close(got, torch.stack([layer(x) for layer in stack]))


@pytest.mark.parametrize("make", [lambda: SparseCoding2d(3, 6, padding=1), lambda: SparseCoding1d(6, 9)])
def test_training_goes_the_same_way_with_and_without_checkpointing(make: Callable[[], nn.Module]) -> None:
    def trained(reentrant: bool | None) -> list[Tensor]:
        torch.manual_seed(0)
        layer = make().train()
        optimiser = torch.optim.SGD(layer.parameters(), lr=0.05, momentum=0.9, fused=True)
        codes = []
        for seed in range(4):
            shape = (4, 3, 8, 7) if isinstance(layer, SparseCoding2d) else (4, 5, 6)
            x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()
            optimiser.zero_grad()
            views = (x, x.flip(-1), x[..., :6, :5] if isinstance(layer, SparseCoding2d) else x[:, :3])
            for view in views:  # several forwards share a step, one of another size
                code = layer(view) if reentrant is None else checkpoint(layer, view, use_reentrant=reentrant)
                codes.append(code.detach())
                code.square().mean().backward()
            optimiser.step()
        return [*codes, layer.weight.detach(), layer.step_size]

    want = trained(None)
    for reentrant in (True, False):
        same(trained(reentrant), want)


def test_the_first_step_of_a_sparse_network_is_that_without_checkpointing() -> None:
    torch.manual_seed(0)
    net = pipelines.create("sdnet/sdnet18", dataset="cifar10", width=0.125).train()
    x = torch.randn(4, 3, 32, 32)
    stem = next(module for module in net.modules() if isinstance(module, SparseCoding2d))
    want = found(copy.deepcopy(net), [x])
    forward = stem.forward
    stem.forward = lambda x: checkpoint(forward, x, use_reentrant=False)
    for one, other in zip(found(net, [x]), want, strict=True):
        assert (one - other).norm() <= 1e-4 * other.norm()


class Several(nn.Module):
    """Each layer in turn, by its number."""

    def __init__(self, training: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList([made(name, training) for name in NAMES])

    def forward(self, n: int, *x: Tensor) -> Tensor:
        return self.layers[n](*x)


def _in_a_process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    results = {}
    for name in NAMES:
        for training in (True, False):
            layer, given = made(name, training), inputs(name, seed=rank)
            if not any(weight.requires_grad for weight in layer.parameters()):
                continue  # nothing that processes could share
            # batch statistics are not compared: those of a process are its own
            shared = DistributedDataParallel(layer, broadcast_buffers=name not in STATISTICS)
            codes = [shared(*given) for _ in range(3)]
            assert all(torch.equal(code, codes[0]) for code in codes[1:])
            total = torch.stack([loss(code) for code in codes]).sum()
            if not total.requires_grad:
                continue  # a choice in evaluation: no gradient flows through it
            total.backward()
            results[name, training] = [weight.grad for weight in layer.parameters()]
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_several_forwards_in_two_processes_have_the_gradients_of_one(tmp_path: Path) -> None:
    program = (
        "import sys; from tests.core.layers.test_state import _in_a_process as f; f(int(sys.argv[1]), sys.argv[2])"
    )
    both = [fresh.start(["-c", program, rank, tmp_path]) for rank in range(2)]
    for done in [process.wait() for process in both]:
        assert done.returncode == 0, done.stderr
    shared = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    assert len(shared[0]) >= 2 * 6
    for (name, training), gradients in shared[0].items():
        alone = [found(made(name, training), inputs(name, seed=rank))[2:] for rank in range(2)]
        exact = [3 * (a + b) / 2 for a, b in zip(*alone, strict=True)]
        for one, other, mean in zip(gradients, shared[1][name, training], exact, strict=True):
            assert torch.equal(one, other)
            torch.testing.assert_close(one, mean, rtol=1e-4, atol=1e-4)
