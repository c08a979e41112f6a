"""The laws of the sparse-coding layers."""

import copy

import pytest
import torch
from torch import Tensor

from stillpoint.core.layers.sparse_coding import SparseCoding1d, SparseCoding2d, sparse_coding1d, sparse_coding2d


def images(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def textbook(
    x: Tensor, w: Tensor, step: float, *, iterations: int, penalty: float, ridge: float, scheme: str
) -> Tensor:
    """The iteration of the paper for vectors, written out with A as a matrix and nothing saved or fused."""

    def prox(u: Tensor) -> Tensor:
        shrink = 1 / (1 + ridge * step)
        return (shrink * u - shrink * step * penalty).clamp_min(0)

    codes, t = [x.new_zeros(len(x), len(w))] * 2, [0.0, 1.0]
    for i in range(iterations):
        if i > 0:
            t.append((1 + (1 + 4 * t[-1] ** 2) ** 0.5) / 2)
        factor = (t[-2] - 1) / t[-1] if i > 1 and scheme != "ista" else 0.0
        point = codes[-1] + factor * (codes[-1] - codes[-2])
        at = point if scheme == "fista" else codes[-1]
        codes.append(prox(point + step * (x - at @ w) @ w.T))
    return codes[-1]


def objective(layer: SparseCoding2d, x: Tensor, code: Tensor) -> Tensor:
    residual, cost = layer.losses(x, code)
    return residual / 2 + cost


@pytest.mark.parametrize("scheme", ["sdnet", "fista", "ista"])
@pytest.mark.parametrize("iterations", [1, 2, 3, 7])
def test_vectors_follow_the_written_out_iteration(scheme, iterations):
    x, w = images(5, 6, dtype=torch.float64), images(9, 6, seed=1, dtype=torch.float64)
    options = {"iterations": iterations, "penalty": 0.2, "ridge": 0.3, "scheme": scheme}
    got = sparse_coding1d(x, w, step=torch.tensor(0.02, dtype=torch.float64), **options)
    torch.testing.assert_close(got, textbook(x, w, 0.02, **options))


def test_a_kernel_of_the_image_size_is_the_layer_for_vectors():
    x, w = images(3, 2, 4, 4), images(7, 2, 4, 4, seed=1)
    options = {"iterations": 5, "penalty": 0.3, "step": torch.tensor(0.01)}
    got = sparse_coding2d(x, w, **options).flatten(1)
    torch.testing.assert_close(got, sparse_coding1d(x.flatten(1), w.flatten(1), **options))


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (5, 4, 0), (7, 3, 3), (1, 2, 0), (2, 3, 1)]
)
@pytest.mark.parametrize("size", [(8, 8), (9, 12), (11, 7)])
def test_reconstruction_is_the_adjoint_of_the_convolution_for_every_size_and_stride(kernel, stride, padding, size):
    layer = SparseCoding2d(2, 5, kernel, stride=stride, padding=padding, dtype=torch.float64).eval()
    x = images(3, 2, *size, dtype=torch.float64)
    code = layer(x)
    assert code.shape[2:] == tuple((n + 2 * padding - kernel) // stride + 1 for n in size)
    analysed = torch.nn.functional.conv2d(x, layer.dictionary(), stride=stride, padding=padding)
    z = torch.randn_like(code)
    torch.testing.assert_close((x * layer.reconstruct(z, size)).sum(), (analysed * z).sum())


@pytest.mark.parametrize("nonnegative", [True, False])
@pytest.mark.parametrize(("stride", "ridge", "penalty"), [(1, 0.0, 0.1), (2, 0.5, 0.3), (3, 0.0, 0.0)])
def test_the_objective_never_increases_without_momentum(nonnegative, stride, ridge, penalty):
    layer = SparseCoding2d(
        3, 8, 3, stride=stride, padding=1, ridge=ridge, penalty=penalty, nonnegative=nonnegative, dtype=torch.float64
    ).eval()
    x = images(2, 3, 9, 10, dtype=torch.float64)
    values = [objective(layer, x, torch.zeros_like(layer(x)))]
    for iterations in range(1, 25):
        layer.options.update(iterations=iterations, scheme="ista")
        values.append(objective(layer, x, layer(x)))
    steps = torch.stack(values).diff(dim=0)
    assert (steps <= 1e-12).all()
    assert (steps[0] < 0).all()


def test_every_scheme_reaches_the_minimum_whose_optimality_conditions_hold():
    w = torch.nn.functional.normalize(images(4, 30, seed=1, dtype=torch.float64))
    x = images(3, 30, dtype=torch.float64)
    for scheme, tolerance in {"sdnet": 1e-3, "fista": 1e-6, "ista": 1e-9}.items():  # momentum oscillates
        z = sparse_coding1d(x, w, iterations=500, penalty=0.1, scheme=scheme)
        slope = (z @ w - x) @ w.T + 0.1
        assert (slope[z > 0].abs() < tolerance).all()
        assert (slope[z == 0] > -tolerance).all()


def test_one_and_two_iterations_are_the_same_in_all_schemes_and_three_are_not():
    x, w = images(2, 3, 8, 8), images(6, 3, 3, 3, seed=1)
    step = torch.tensor(0.01)
    for iterations in (1, 2):
        codes = [sparse_coding2d(x, w, iterations=iterations, scheme=s, step=step) for s in ("sdnet", "fista", "ista")]
        assert all(torch.equal(codes[0], code) for code in codes)
    three = [sparse_coding2d(x, w, iterations=3, scheme=s, step=step) for s in ("sdnet", "fista", "ista")]
    assert not torch.allclose(three[0], three[1])
    assert not torch.allclose(three[1], three[2])


@pytest.mark.parametrize("options", [{}, {"nonnegative": False}, {"squared": False}, {"ridge": 0.2, "scheme": "fista"}])
def test_gradients_are_those_of_the_unrolled_iterations(options):
    x = images(2, 2, 5, 4, dtype=torch.float64).requires_grad_()
    w = images(3, 2, 3, 3, seed=1, dtype=torch.float64).requires_grad_()
    step = torch.tensor(0.02, dtype=torch.float64)

    def code(x: Tensor, w: Tensor) -> Tensor:
        return sparse_coding2d(x, w, stride=2, padding=1, iterations=1, penalty=0.05, step=step, **options)

    assert torch.autograd.gradcheck(code, (x, w))
    deeper = {**options, "iterations": 4} if options.get("squared", True) else None
    if deeper:  # the un-squared norm is detached by definition, so only one iteration has exact gradients
        assert torch.autograd.gradcheck(lambda x, w: sparse_coding2d(x, w, penalty=0.05, step=step, **deeper), (x, w))


@pytest.mark.parametrize("squared", [True, False])
def test_recomputation_changes_no_bit_of_code_or_gradients(squared):
    w = images(6, 2, 3, 3, seed=1)
    results = []
    for recompute in (False, True):
        x, weight = images(2, 2, 8, 8).requires_grad_(), w.clone().requires_grad_()
        z = sparse_coding2d(x, weight, iterations=4, penalty=0.05, squared=squared, recompute=recompute)
        z.square().sum().backward()
        results.append((z.detach(), x.grad, weight.grad))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize(
    "options", [{}, {"squared": False}, {"nonnegative": False, "scheme": "fista"}, {"recompute": True}]
)
def test_a_large_batch_in_blocks_has_the_codes_and_gradients_of_its_images(options):
    def found(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = x.clone().requires_grad_(), images(6, 2, 3, 3, seed=1, dtype=torch.float64).requires_grad_()
        code = sparse_coding2d(x, weight, iterations=3, penalty=0.05, **options)
        return code, *torch.autograd.grad(code.square().sum(), (x, weight))

    x = images(17, 2, 8, 8, dtype=torch.float64)
    code, for_x, for_weight = found(x)
    alone = [found(image[None]) for image in x]
    torch.testing.assert_close(code, torch.cat([one for one, _, _ in alone]))
    torch.testing.assert_close(for_x, torch.cat([one for _, one, _ in alone]))
    torch.testing.assert_close(for_weight, sum(one for _, _, one in alone))


def test_a_large_batch_needs_half_of_the_memory_of_the_textbook_code():
    from benchmarks.cases import plain_sparse_coding
    from benchmarks.harness import peak_memory

    x, weight, step = images(16, 8, 16, 16).requires_grad_(), images(8, 8, 3, 3, seed=1), torch.tensor(0.01)
    g = images(16, 8, 16, 16, seed=2)

    def backward(code: Tensor) -> None:
        torch.autograd.grad(code, x, g)

    weight.requires_grad_()
    ours = peak_memory(lambda: backward(sparse_coding2d(x, weight, padding=1, step=step)), "cpu")
    plain = peak_memory(lambda: backward(plain_sparse_coding(x, weight, step, 0.1)), "cpu")
    assert ours < 0.55 * plain


def test_recomputation_keeps_less_than_half_of_the_values_for_backward():
    def kept(recompute: bool) -> int:
        x = images(4, 3, 16, 16).requires_grad_()
        weight = images(16, 3, 3, 3, seed=1).requires_grad_()
        storages: dict[int, int] = {}

        def pack(t: Tensor) -> Tensor:
            storages[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            code = sparse_coding2d(x, weight, padding=1, iterations=4, step=torch.tensor(0.01), recompute=recompute)
        assert code.requires_grad
        return sum(storages.values())

    assert kept(True) < kept(False) / 2


def test_the_step_is_below_the_inverse_of_the_largest_eigenvalue_of_the_dense_matrix():
    layer = SparseCoding2d(2, 4, 3, stride=2, padding=1, dtype=torch.float64).eval()
    z = torch.eye(4 * 3 * 4, dtype=torch.float64).view(-1, 4, 3, 4)
    matrix = layer.reconstruct(z, (5, 7)).flatten(1)
    largest = torch.linalg.matrix_norm(matrix, 2) ** 2
    step = layer.step(images(1, 2, 5, 7, dtype=torch.float64))
    assert 0.9 <= step * largest < 0.95


def test_training_measures_the_dictionary_as_the_optimiser_left_it_and_then_normalises():
    layer = SparseCoding2d(2, 4, 3, padding=1).train()
    with torch.no_grad():
        layer.weight.mul_(3)
    raw, unit = copy.deepcopy(layer), copy.deepcopy(layer)
    x = images(1, 2, 8, 8)
    layer(x)
    raw.update_step_size(x)
    unit.normalise_()
    unit.update_step_size(x)
    torch.testing.assert_close(layer.step_size, raw.step_size)
    torch.testing.assert_close(layer.weight.flatten(1).norm(dim=1), torch.ones(4))
    assert layer.step_size < unit.step_size / 2


def test_two_training_forwards_share_one_backward():
    layer = SparseCoding2d(2, 4, 3, padding=1).train()
    x = images(1, 2, 8, 8)
    (layer(x).sum() + layer(x).sum()).backward()
    both, layer.weight.grad = layer.weight.grad, None
    layer(x).sum().backward()
    torch.testing.assert_close(both, 2 * layer.weight.grad)


def test_sizes_in_turn_have_each_the_step_of_their_own():
    layer = SparseCoding2d(2, 4, 3, padding=1).train()
    alone = [copy.deepcopy(layer) for _ in range(2)]
    large, small = images(2, 2, 12, 10), images(2, 2, 6, 7)
    want = [one(x) for one, x in zip(alone, (large, small), strict=True)]
    # the other size is measured of the dictionary as the optimiser left it too
    for x, code in ((large, want[0]), (small, want[1]), (large, want[0])):
        torch.testing.assert_close(layer(x), code)
    assert layer.eigenvector.shape[2:] == small.shape[2:]


@pytest.mark.parametrize("fused", [True, False])
def test_no_optimiser_leaves_a_stale_step_size(fused):
    layer = SparseCoding2d(2, 4, 3, padding=1, normalise=False)
    x = images(1, 2, 8, 8)
    for training in (True, False):
        layer.train(training)
        optimiser = torch.optim.SGD(layer.parameters(), lr=10.0, fused=fused)
        layer(x).sum().backward()
        optimiser.step()
        fresh = SparseCoding2d(2, 4, 3, padding=1, normalise=False).train(training)
        fresh.load_state_dict(layer.state_dict())
        torch.testing.assert_close(layer.step(x), fresh.step(x), rtol=0.02, atol=0)


def test_weights_set_behind_every_version_counter_are_new_weights_in_training():
    layer = SparseCoding2d(2, 4, 3, padding=1).train()
    x = images(1, 2, 8, 8)
    layer(x)
    layer.update_step_size(x)  # of the unit atoms
    before = layer.step_size.clone()
    layer.weight.data.mul_(3)
    layer(x)
    torch.testing.assert_close(layer.step_size * 9, before, rtol=0.02, atol=0)
    torch.testing.assert_close(layer.weight.flatten(1).norm(dim=1), torch.ones(4))


def test_a_stored_step_is_used_where_measuring_is_turned_off():
    layer = SparseCoding2d(2, 4, 3, padding=1).eval()
    layer.measure = False
    x = images(1, 2, 8, 8)
    want = sparse_coding2d(x, layer.dictionary(), padding=1, step=torch.tensor(0.1))
    assert torch.equal(layer(x), want)


def test_evaluating_leaves_no_trace_in_a_training():
    def train(evaluate: bool) -> Tensor:
        layer = SparseCoding2d(2, 4, 3, padding=1)
        with torch.no_grad():
            layer.weight.copy_(images(4, 2, 3, 3))
        optimiser = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9, fused=True)
        for seed in range(4):
            layer.train()
            optimiser.zero_grad()
            layer(images(2, 2, 6, 6, seed=seed)).square().sum().backward()
            optimiser.step()
            if evaluate:
                layer.eval()(images(1, 2, 7, 9))
        return torch.cat([layer.weight.detach().flatten(), layer.step_size.view(1)])

    assert torch.equal(train(True), train(False))


def test_an_evaluated_depends_on_weights_and_input_alone():
    x = images(2, 3, 8, 8)
    trained = SparseCoding2d(3, 6, 3, padding=1).train()
    for seed in range(3):  # another history of eigenvectors
        with torch.no_grad():
            trained.weight.copy_(images(6, 3, 3, 3, seed=seed))
        trained(x)
    fresh = SparseCoding2d(3, 6, 3, padding=1)
    fresh(images(1, 3, 5, 5))
    fresh.load_state_dict(trained.state_dict())
    assert torch.equal(fresh.eval()(x), trained.eval()(x))


def test_loading_other_weights_measures_the_step_anew():
    layer = SparseCoding2d(2, 4, 3, padding=1, normalise=False).eval()
    x = images(1, 2, 8, 8)
    layer(x)
    layer.load_state_dict({"weight": 10 * layer.weight.detach(), "step_size": torch.tensor(0.1)})
    before = layer._evaluated[1]
    layer(x)
    torch.testing.assert_close(layer._evaluated[1] * 100, before)


def test_a_measured_evaluated_is_not_measured_again(monkeypatch):
    layer = SparseCoding2d(2, 4, 3, padding=1).eval()
    calls = []
    import stillpoint.core.layers.dictionary as module

    original = module.largest_eigenvalue
    monkeypatch.setattr(module, "largest_eigenvalue", lambda *a: calls.append(1) or original(*a))
    for _ in range(3):
        layer(images(1, 2, 8, 8))
    layer.penalty = 0.7
    x = images(4, 2, 8, 8).requires_grad_()
    torch.autograd.grad(layer(x).sum(), x)  # as an attack does
    layer(x)
    assert len(calls) == 1
    layer(images(1, 2, 9, 8))
    assert len(calls) == 2


def test_a_new_penalty_acts_at_once():
    layer = SparseCoding2d(2, 4, 3, padding=1).eval()
    x = images(1, 2, 8, 8)
    sparse = layer(x).count_nonzero()
    layer.penalty = 1.0
    assert layer(x).count_nonzero() < sparse


def test_an_expanded_dictionary_sees_the_input_repeated():
    x, w = images(2, 3, 6, 6), images(4, 6, 3, 3, seed=1)
    assert torch.equal(sparse_coding2d(x, w, padding=1), sparse_coding2d(torch.cat([x, x], 1), w, padding=1))


def test_a_code_under_inference_mode_serves_gradients_afterwards():
    layer = SparseCoding2d(2, 4, 3, padding=1).eval()
    x = images(1, 2, 8, 8)
    with torch.inference_mode():
        layer(x)
    x.requires_grad_()
    layer(x).sum().backward()
    assert x.grad.abs().sum() > 0


def test_the_state_holds_the_dictionary_and_its_step_alone():
    layer = SparseCoding2d(2, 4, 3, padding=1).train()
    layer(images(1, 2, 8, 8))
    assert sorted(layer.state_dict()) == ["step_size", "weight"]
    assert dict(layer.named_buffers())["eigenvector"].shape == (1, 4, 8, 8)


def test_tokens_keep_their_leading_dimensions():
    layer = SparseCoding1d(5, 7, iterations=3).eval()
    x = images(2, 3, 4, 5)
    code = layer(x)
    assert code.shape == (2, 3, 4, 7)
    torch.testing.assert_close(code.view(-1, 7), layer(x.view(-1, 5)))
    residual, cost = layer.losses(x, code)
    assert residual.shape == cost.shape == (2, 3, 4)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"penalty": -0.1}, "penalty is -0.1"),
        ({"iterations": 0}, "iterations is 0"),
        ({"ridge": -1.0}, "ridge is -1.0"),
        ({"scheme": "newton"}, "scheme is 'newton'; it must be one of sdnet, fista, ista"),
    ],
)
def test_options_out_of_range_are_named(options, said):
    with pytest.raises(ValueError, match=said):
        SparseCoding2d(3, 4, **options)
    with pytest.raises(ValueError, match=said):
        sparse_coding1d(images(2, 3), images(4, 3), **options)


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="x has 4 channels, but the dictionary's 6"):
        sparse_coding2d(images(1, 4, 8, 8), images(5, 6, 3, 3))
    with pytest.raises(ValueError, match="images of 2x8 are smaller than the kernel"):
        sparse_coding2d(images(1, 3, 2, 8), images(5, 3, 3, 3))
    with pytest.raises(ValueError, match="x has 5 channels, but the dictionary's 6"):
        sparse_coding1d(images(2, 5), images(4, 6))
    with pytest.raises(ValueError, match="stride is 0"):
        SparseCoding2d(3, 4, stride=0)
    with pytest.raises(ValueError, match="stride is 0"):
        sparse_coding2d(images(1, 3, 8, 8), images(5, 3, 3, 3), stride=0)
    with pytest.raises(ValueError, match="padding is -1; it must be at least 0"):
        SparseCoding2d(3, 4, padding=-1)
    for layer in (SparseCoding1d, SparseCoding2d):
        with pytest.raises(ValueError, match="dictionary_size is 0"):
            layer(3, 0)
    with pytest.raises(ValueError, match="expansion is 0"):
        SparseCoding1d(3, 4, expansion=0)
    with pytest.raises(ValueError, match="x has 3 dimensions; a batch of images has 4"):
        SparseCoding2d(3, 4)(torch.zeros(3, 8, 8))


@pytest.mark.parametrize("nonnegative", [True, False])
def test_a_dictionary_of_zeros_gives_codes_of_zeros(nonnegative):
    options = {"nonnegative": nonnegative, "iterations": 3}
    for dtype in (torch.float32, torch.float64):
        x, empty = images(2, 3, 6, 6).to(dtype), torch.zeros(4, 3, 3, 3, dtype=dtype)
        assert not sparse_coding2d(x, empty, **options).any()
        assert not sparse_coding1d(x[:, :, 0, 0], empty[:, :, 0, 0], **options).any()


def test_a_layer_made_in_inference_mode_measures_its_step():
    x = images(1, 3, 8, 8).float()
    with torch.inference_mode():
        layer = SparseCoding2d(3, 5, padding=1, normalise=False).eval()
        before = layer(x)
        layer.weight.mul_(0.5)
        after = layer(x)
        assert torch.allclose(after, sparse_coding2d(x, layer.weight, padding=1)) and not torch.allclose(after, before)


def test_atoms_whose_squares_overflow_become_unit_atoms():
    layer = SparseCoding2d(2, 3, 3).eval()
    want = layer.dictionary().detach().clone()
    with torch.no_grad():
        layer.weight.mul_(2.0**100)
    assert torch.equal(layer.dictionary(), want)


@pytest.mark.parametrize("scale", [2.0**90, 2.0**-35])
def test_the_unsquared_data_term_is_that_of_residuals_on_every_scale(scale):
    # codes of scaled vectors are scaled codes where the penalty, and the step after the first, are
    x, w, step = images(3, 6), images(4, 6, seed=1), 0.01
    want = sparse_coding1d(x, w, iterations=1, penalty=0.1, step=torch.tensor(step))
    residual = x - want @ w
    norm = residual.norm(dim=1, keepdim=True)
    moved = (want + step * (0.5 * residual / norm) @ w.T / scale - step * 0.1).clamp_min(0)
    got = sparse_coding1d(x * scale, w, iterations=2, penalty=0.1 * scale, step=torch.tensor(step), squared=False)
    torch.testing.assert_close(got / scale, moved)


def test_a_loaded_dictionary_with_a_zero_atom_is_refused():
    layer = SparseCoding2d(2, 3, 3)
    state = layer.state_dict()
    state["weight"] = state["weight"].clone()
    state["weight"][1] = 0
    with pytest.raises(RuntimeError, match=r"atoms \[1\] are zero"):
        layer.load_state_dict(state)


@pytest.mark.parametrize("training", [False, True])
def test_torch_compile_measures_the_step_outside_of_its_graphs(training):
    torch.manual_seed(0)
    layer = SparseCoding2d(3, 5, 3, padding=1).train(training)
    twin = copy.deepcopy(layer)
    x = torch.randn(2, 3, 6, 7)
    compiled = torch.compile(layer, backend="eager")
    for _ in range(2):
        torch.testing.assert_close(compiled(x), twin(x))
        with torch.no_grad():
            for one in (layer, twin):
                one.weight.mul_(1.5).add_(0.1)  # a new dictionary has a new step


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize(
    "change",
    [
        lambda layer: layer.double(),
        lambda layer: layer.double().float(),
        lambda layer: layer.to(memory_format=torch.channels_last),
        copy.deepcopy,
    ],
    ids=["double", "and_back", "channels_last", "copy"],
)
def test_another_type_or_format_of_the_same_weights_is_no_new_dictionary(change, normalise) -> None:
    torch.manual_seed(0)
    layer, x = SparseCoding2d(3, 8, padding=1, normalise=normalise), images(4, 3, 8, 8)
    expected = layer(x)
    changed = change(layer)
    found = changed(x.to(changed.weight.dtype))
    assert torch.allclose(found.float(), expected, rtol=1e-5, atol=1e-5)
