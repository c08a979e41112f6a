"""Layers that measure something, under torch.export, torch.func, torch.jit and forward-mode derivatives."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from stillpoint import pipelines
from stillpoint.core.layers import AdaptiveBlur2d, Scattering2d, SparseCoding1d, SparseCoding2d, sparse_coding2d

traced = pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.torch.jit:FutureWarning")


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def fresh(seed: int = 1, normalise: bool = True) -> SparseCoding2d:
    """In eval mode, and no step measured yet; the same weights for the same seed."""
    layer = SparseCoding2d(8, 6, 3, padding=1, normalise=normalise)
    with torch.no_grad():
        layer.weight.copy_(images(6, 8, 3, 3, seed=seed))
    return layer.eval()


X = images(2, 8, 10, 9)


def adaptive() -> nn.Module:
    return AdaptiveBlur2d(8, size=3).eval()


def vectors() -> nn.Module:
    return SparseCoding1d(9, 7).eval()


@pytest.mark.parametrize("make", [fresh, adaptive, vectors, Scattering2d])
def test_exported_layers_give_what_the_layer_gives(make: Callable[[], nn.Module]) -> None:
    x = images(2, 8, 12, 8) if make is Scattering2d else X
    layer, batch = make(), torch.export.Dim("batch", min=2)
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: batch},))
    torch.testing.assert_close(program.module()(x), layer(x))
    more = torch.cat([x, -x, x + 1])
    torch.testing.assert_close(program.module()(more), layer(more))


def nodes(program: torch.export.ExportedProgram) -> int:
    return sum(len(m.graph.nodes) for m in program.graph_module.modules() if isinstance(m, torch.fx.GraphModule))


@pytest.mark.parametrize("normalise", [True, False])
def test_an_exported_dictionary_has_its_step_as_a_number(normalise: bool) -> None:
    layer = fresh(normalise=normalise)
    with torch.no_grad():
        layer.weight.mul_(3)
    program = torch.export.export(layer, (X,))
    assert nodes(program) < 100
    torch.testing.assert_close(program.module()(X), layer(X), rtol=0, atol=0)


def test_a_dictionary_that_the_exporter_hides_is_measured_in_the_graph() -> None:
    layer = copy.deepcopy(fresh())  # no eval() since, so that no tensor with numbers is at hand
    program = torch.export.export(layer, (X,))
    assert nodes(program) > 200
    torch.testing.assert_close(program.module()(X), layer(X))


def test_a_sparse_network_is_exported() -> None:
    net, x = pipelines.create("sdnet/sdnet18", dataset="cifar10").eval(), images(2, 3, 32, 32)
    torch.testing.assert_close(torch.export.export(net, (x,)).module()(x), net(x))


@traced
@pytest.mark.parametrize("make", [fresh, adaptive, vectors, Scattering2d])
def test_traced_layers_give_what_the_layer_gives(make: Callable[[], nn.Module]) -> None:
    layer, x = make(), images(2, 8, 8, 8) if make is Scattering2d else X
    network = torch.jit.trace(layer, x)
    torch.testing.assert_close(network(x), layer(x))
    more = torch.cat([x, -x])
    torch.testing.assert_close(network(more), layer(more))


def test_a_derivative_of_torch_func_is_autograds_and_leaves_a_layer_that_can_be_copied() -> None:
    layer, x = fresh(), X.clone().requires_grad_()
    found = torch.func.grad(lambda z: layer(z).square().sum())(X)
    for again in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), layer):
        again(x).square().sum().backward()
        torch.testing.assert_close(found, x.grad)
        x.grad = None


def test_a_derivative_by_the_weights_has_the_step_as_a_constant() -> None:
    layer, weights = fresh(), {"weight": fresh().weight.detach()}
    found = torch.func.grad(lambda w: torch.func.functional_call(layer, w, (X,)).square().sum())(weights)
    layer(X).square().sum().backward()
    torch.testing.assert_close(found["weight"], layer.weight.grad)
    own = torch.func.grad(lambda w: sparse_coding2d(X, w, padding=1).sum())(weights["weight"])
    (same,) = torch.autograd.grad(sparse_coding2d(X, layer.weight, padding=1).sum(), layer.weight)
    torch.testing.assert_close(own, same)


def test_vmap_over_images_and_over_dictionaries() -> None:
    layer = fresh()
    torch.testing.assert_close(torch.func.vmap(fresh())(X[None])[0], layer(X))
    atoms = layer.dictionary().detach()
    code = torch.func.vmap(lambda x: sparse_coding2d(x, atoms, padding=1))(X[None])[0]
    torch.testing.assert_close(code, layer(X))
    layers = [fresh(seed) for seed in (1, 2, 3)]
    weights, buffers = torch.func.stack_module_state(layers)
    together = torch.func.vmap(lambda w, b: torch.func.functional_call(layer, (w, b), (X,)))(weights, buffers)
    torch.testing.assert_close(together, torch.stack([one(X) for one in layers]))


def test_gradients_of_each_image() -> None:
    layer, weights = fresh(), {"weight": fresh().weight.detach()}

    def loss(w: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(layer, w, (x[None],)).square().sum()

    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(weights, X)["weight"]
    for image, gradient in zip(X, found, strict=True):
        layer.weight.grad = None
        layer(image[None]).square().sum().backward()
        torch.testing.assert_close(gradient, layer.weight.grad)


def test_forward_mode_derivatives_leave_no_tangent_behind() -> None:
    layer, tangent = fresh(), images(6, 8, 3, 3, seed=5)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(layer.weight.detach(), tangent)
        moved = forward_ad.unpack_dual(torch.func.functional_call(layer, {"weight": dual}, (X,))).tangent
        assert layer._evaluated is not None
        assert forward_ad.unpack_dual(layer._evaluated.step).tangent is None
    assert moved is not None and moved.abs().sum() > 0
    torch.testing.assert_close(torch.func.jvp(layer, (X,), (X,))[0], layer(X))


def test_weights_that_come_to_lie_where_others_lay_have_a_step_of_their_own() -> None:
    layer = fresh(normalise=False)
    for factor in range(1, 20):
        weights = {"weight": factor * fresh().weight.detach()}
        got = torch.func.functional_call(layer, weights, (X,))
        del weights
        want = sparse_coding2d(X, factor * fresh().weight.detach(), padding=1)
        torch.testing.assert_close(got, want)


def test_a_dictionary_that_was_loaded_or_cast_is_exported_as_it_is_now() -> None:
    layer = fresh(normalise=False)
    layer(X)
    layer.load_state_dict({"weight": images(6, 8, 3, 3, seed=9), "step_size": torch.tensor(0.1)}, assign=True)
    torch.testing.assert_close(torch.export.export(layer, (X,)).module()(X), layer(X))
    layer.double()
    torch.testing.assert_close(torch.export.export(layer, (X.double(),)).module()(X.double()), layer(X.double()))
