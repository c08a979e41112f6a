"""Norm, sum and activation in one pass: the modules' own values, gradients and statistics, and when the modules run."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from stillpoint.core.kernels import norm as kernel
from stillpoint.core.layers.fused_sequential import FusedSequential
from stillpoint.core.layers.norm_act import norm_act

LAST = torch.channels_last
# channels that fill the registers, that do not, and one; maps with a rest after the last whole row
SHAPES = [(4, 16, 8, 8), (5, 3, 7, 9), (3, 67, 5, 5), (9, 48, 30, 30), (16, 512, 4, 4), (4, 1, 5, 5), (2, 64, 1, 1)]
ACTS = {"none": None, "identity": nn.Identity(), "relu": nn.ReLU(), "relu6": nn.ReLU6(inplace=True)}


@pytest.fixture
def fused(monkeypatch):
    """How often the kernels ran."""
    calls: list[str] = []
    real = kernel.norm_act2d

    def counted(*args, **options):
        calls.append(options["activation"])
        return real(*args, **options)

    monkeypatch.setattr(kernel, "norm_act2d", counted)
    return calls


def batch_norm(channels, dtype=torch.float64, training=True, **options):
    torch.manual_seed(channels)
    norm = nn.BatchNorm2d(channels, dtype=dtype, **options).train(training)
    nn.init.uniform_(norm.weight, -1.5, 1.5)
    nn.init.normal_(norm.bias)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    return norm


def maps(shape, dtype=torch.float64, offset=0.0):
    """Input, residual and the gradient of the output."""
    torch.manual_seed(0)
    made = [torch.randn(shape, dtype=torch.float64) + offset, *(torch.randn(shape, dtype=torch.float64) for _ in "ab")]
    x, residual, seed = (m.to(dtype).contiguous(memory_format=LAST) for m in made)
    return x.requires_grad_(), residual.requires_grad_(), seed


def plain(x, norm, act=None, residual=None):
    y = norm(x)
    y = y if residual is None else y + residual
    return y if act is None else act(y)


def everything(call, x, norm, act, residual, seed):
    """Output, gradients and statistics after one pass."""
    norm = copy.deepcopy(norm)
    inputs = [x, norm.weight, norm.bias, *([] if residual is None else [residual])]
    y = call(x, norm, act, residual)
    return [y.detach(), *torch.autograd.grad(y, inputs, seed), norm.running_mean, norm.running_var]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_gradients_and_statistics_are_those_of_the_modules(fused, shape, training):
    norm = batch_norm(shape[1], training=training)
    x, residual, seed = maps(shape)
    for act, added in itertools.product(ACTS.values(), (None, residual)):
        got = everything(norm_act, x, norm, act, added, seed)
        assert got[0].is_contiguous(memory_format=LAST)
        for a, b in zip(got, everything(plain, x, norm, act, added, seed), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
    assert len(fused) == 8


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(9, 48, 30, 30), (64, 16, 32, 32), (8, 3, 9, 9)])
def test_in_float32_it_is_no_further_from_the_truth_than_pytorch(fused, shape, training):
    norm, (x, residual, seed) = batch_norm(shape[1], torch.float32, training), maps(shape, torch.float32, offset=30.0)
    exact = copy.deepcopy(norm).double()
    truth = everything(plain, *(v.double() for v in (x,)), exact, None, residual.double(), seed.double())
    ours = everything(norm_act, x, norm, None, residual, seed)
    theirs = everything(plain, x, norm, None, residual, seed)
    assert fused
    for got, other, want in zip(ours, theirs, truth, strict=True):
        off, usual = ((v.double() - want).norm() / want.norm() for v in (got, other))
        assert off <= 1.5 * usual + 3e-7


@pytest.mark.parametrize("training", [True, False])
def test_bfloat16_is_the_exact_result_rounded_once(fused, training):
    shape = (8, 24, 11, 11)
    norm, (x, residual, seed) = batch_norm(24, torch.float32, training), maps(shape, torch.bfloat16)
    exact = copy.deepcopy(norm).double()
    for act in (None, ACTS["relu"]):
        ours = everything(norm_act, x, norm, act, residual, seed)
        truth = everything(plain, x.detach().double().requires_grad_(), exact, None, None, seed.double())
        y = plain(x.double(), copy.deepcopy(exact), act, residual.double()).detach()
        assert ours[0].dtype == torch.bfloat16
        torch.testing.assert_close(ours[0].double(), y, rtol=2**-8, atol=1e-4)
        for a, b in zip(ours[-2:], truth[-2:], strict=True):
            torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-6)
        if act is None:
            torch.testing.assert_close(ours[1].double(), truth[1], rtol=2**-8, atol=1e-4)
        # the masked gradient goes to the residual as it is
        masked = seed if act is None else torch.where(ours[0] > 0, seed, torch.zeros_like(seed))
        assert torch.equal(ours[4], masked)
        torch.testing.assert_close(ours[3].double(), masked.double().sum((0, 2, 3)), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("training", [True, False])
def test_gradients_of_every_order(fused, training):
    norm, (x, residual, _) = batch_norm(3, training=training), maps((3, 3, 4, 5))
    for act, added in itertools.product((None, *ACTS.values()), (False, True)):

        def call(x, weight, bias, residual, act=act, added=added):
            own = copy.copy(norm)
            own._parameters = {"weight": weight, "bias": bias}
            own._buffers = {name: b.clone() for name, b in norm._buffers.items()}
            return norm_act(x, own, act, residual if added else None)

        # parameters, because what is not one is somebody's replacement
        inputs = (x, norm.weight, norm.bias, residual)
        assert gradcheck(call, inputs, fast_mode=True) and gradgradcheck(call, inputs, fast_mode=True)
    assert fused


def test_only_the_gradients_that_are_asked_for(fused):
    for training, added in itertools.product((True, False), (True, False)):
        norm, (x, residual, seed) = batch_norm(16, training=training), maps((4, 16, 6, 6))
        inputs = [x, norm.weight, norm.bias, *([residual] if added else [])]
        for needed in itertools.product((True, False), repeat=len(inputs)):
            asked = [t.requires_grad_(wanted) for t, wanted in zip(inputs, needed, strict=True) if wanted]
            for t, wanted in zip(inputs, needed, strict=True):
                t.requires_grad_(wanted)
            if not asked:
                continue
            y, want = (call(x, norm, ACTS["relu"], residual if added else None) for call in (norm_act, plain))
            for a, b in zip(*(torch.autograd.grad(v, asked, seed) for v in (y, want)), strict=True):
                torch.testing.assert_close(a, b)


@pytest.mark.parametrize("momentum", [0.1, 0.3, None])
def test_running_statistics_over_several_batches(fused, momentum):
    ours = batch_norm(5, momentum=momentum)
    theirs = copy.deepcopy(ours)
    for step in range(4):
        x = (torch.randn(3, 5, 6, 7, dtype=torch.float64) * (step + 1)).contiguous(memory_format=LAST)
        norm_act(x, ours, nn.ReLU())
        theirs(x)
    assert len(fused) == 4
    for name, buffer in ours.named_buffers():
        torch.testing.assert_close(buffer, theirs.get_buffer(name))


def test_evaluation_reads_the_statistics_and_counts_nothing(fused):
    norm, (x, _, _) = batch_norm(16, training=False), maps((2, 16, 4, 4))
    before = copy.deepcopy(norm.state_dict())
    with torch.no_grad():
        norm_act(x, norm, nn.ReLU())
    assert fused and all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())


def test_autograd_knows_that_the_statistics_moved():
    norm, (x, _, _) = batch_norm(16), maps((2, 16, 4, 4))
    squares = (norm.running_var * x.mean()).square().sum()
    norm_act(x, norm, nn.ReLU())
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        squares.backward()


def test_the_same_bits_whatever_the_number_of_threads(fused):
    shape = (64, 48, 16, 16)
    norm, (x, residual, seed) = batch_norm(48, torch.float32), maps(shape, torch.float32)
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(everything(norm_act, x, norm, ACTS["relu"], residual, seed))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))
    assert len(fused) == 3


@pytest.mark.parametrize("act", ["relu", "relu6"])
def test_not_a_number_is_passed_on(fused, act):
    norm, (x, residual, _) = batch_norm(16, training=False), maps((2, 16, 4, 4))
    with torch.no_grad():
        x[1, 3, 2, 1] = residual[0, 5, 1, 1] = torch.nan
        y = norm_act(x, norm, ACTS[act], residual)
    assert y.isnan().sum() == 2 and y[1, 3, 2, 1].isnan() and y[0, 5, 1, 1].isnan()


FALL_BACK = {
    "contiguous": lambda x, n, a: (x.contiguous(), n, a),
    "half precision": lambda x, n, a: (x.half(), n.half(), a),
    "parameters of another type": lambda x, n, a: (x.bfloat16(), n.bfloat16(), a),
    "no affine": lambda x, n, a: (x, nn.BatchNorm2d(16, affine=False, dtype=x.dtype), a),
    "no statistics": lambda x, n, a: (x, nn.BatchNorm2d(16, track_running_stats=False, dtype=x.dtype), a),
    "a subclass": lambda x, n, a: (x, type("Own", (nn.BatchNorm2d,), {})(16, dtype=x.dtype), a),
    "another norm": lambda x, n, a: (x, nn.GroupNorm(4, 16, dtype=x.dtype), a),
    "another activation": lambda x, n, a: (x, n, nn.SiLU()),
    "a forward of its own": lambda x, n, a: (x, _own_forward(n), a),
}


def _own_forward(norm):
    norm.forward = lambda x: F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, True)
    return norm


@pytest.mark.parametrize("case", sorted(FALL_BACK))
def test_the_modules_run_where_the_kernels_do_not_apply(fused, case):
    x, norm, act = FALL_BACK[case](maps((2, 16, 4, 4))[0].detach(), batch_norm(16), nn.ReLU())
    assert torch.equal(norm_act(x, copy.deepcopy(norm), act), plain(x, copy.deepcopy(norm), act))
    assert not fused


def test_a_residual_of_another_type_or_size_is_added_by_pytorch(fused):
    x, residual, _ = maps((2, 16, 4, 4))
    for other in (residual.float(), residual[:, :1], residual.contiguous()):
        norm = batch_norm(16)
        got, want = (call(x, copy.deepcopy(norm), nn.ReLU(), other) for call in (norm_act, plain))
        assert torch.equal(got, want)
    assert not fused


HOOKS = {
    "before": lambda module, seen: module.register_forward_pre_hook(lambda *a: seen.append(1)),
    "after": lambda module, seen: module.register_forward_hook(lambda *a: seen.append(1)),
    "backward": lambda module, seen: module.register_full_backward_hook(lambda *a: seen.append(1)),
    "before backward": lambda module, seen: module.register_full_backward_pre_hook(lambda *a: seen.append(1)),
    "after all": lambda module, seen: nn.modules.module.register_module_forward_hook(lambda *a: seen.append(1)),
}


@pytest.mark.parametrize("hook", sorted(HOOKS))
@pytest.mark.parametrize("place", [0, 1])
def test_every_hook_is_heard(fused, hook, place):
    modules = batch_norm(16), nn.ReLU()
    (x, _, _), seen = maps((2, 16, 4, 4)), []
    handle = HOOKS[hook](modules[place], seen)
    try:
        norm_act(x, *modules).sum().backward()
    finally:
        handle.remove()
    assert seen and not fused
    norm_act(x, *modules)
    assert fused


def test_transforms_and_recorders_see_the_modules(fused):
    net = FusedSequential(batch_norm(4, training=False), nn.ReLU())
    x = maps((2, 4, 6, 6))[0].detach()
    want = plain(x, *net)
    names = [node.target for node in torch.fx.symbolic_trace(net).graph.nodes if node.op == "call_module"]
    assert names == ["0", "1"]
    assert "batch_norm" in str(torch.jit.trace(net, x, check_trace=False).inlined_graph)
    assert "batch_norm" in str(torch.jit.script(net).inlined_graph)
    torch.testing.assert_close(torch.jit.script(net)(x), want)
    assert "batch_norm" in str(torch.export.export(net, (x,)).graph)
    torch.testing.assert_close(torch.func.vmap(net)(x[:, None]), want[:, None])
    _, moved = torch.func.jvp(net, (x,), (torch.ones_like(x),))
    torch.testing.assert_close(moved, torch.func.jvp(lambda x: plain(x, *net), (x,), (torch.ones_like(x),))[1])
    assert net.to("meta")(x.to("meta")).is_meta
    assert not fused


def test_one_value_a_channel_is_refused_in_training_as_by_the_module(fused):
    x = torch.randn(1, 16, 1, 1).contiguous(memory_format=LAST)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        norm_act(x, batch_norm(16, torch.float32), nn.ReLU())
    with pytest.raises(RuntimeError, match="running_mean should contain"):
        norm_act(torch.randn(2, 8, 4, 4).contiguous(memory_format=LAST), batch_norm(16, torch.float32))


def test_a_sequence_runs_its_norms_with_what_follows(fused):
    torch.manual_seed(0)
    steps = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.BatchNorm2d(8), nn.MaxPool2d(2), nn.ReLU()]
    net = FusedSequential(*steps).to(memory_format=LAST)  # type: ignore[call-overload]
    x = torch.randn(2, 3, 12, 12).contiguous(memory_format=LAST)
    want = nn.Sequential(*copy.deepcopy(steps)).to(memory_format=LAST)(x)  # type: ignore[call-overload]
    torch.testing.assert_close(net(x), want)
    assert fused == ["relu", "none"]
