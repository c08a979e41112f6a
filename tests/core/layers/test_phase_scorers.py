import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stillpoint.core.layers import SCORERS, phase_scorer, polyphase_components
from stillpoint.core.layers.padding import pad

PADDINGS = ("circular", "zeros", "reflect", "replicate")


def textbook(scorer: nn.Module, kind: str, x: torch.Tensor) -> torch.Tensor:
    """The scores by convolutions of every phase, none of them left out."""
    phases = polyphase_components(x)  # (B, 4, C, h, w)

    def convolved(y, conv):
        if conv["weight"].shape[-1] == 3:
            y = pad(y, [(1, 1), (1, 1)], padding=scorer.padding)
        return F.conv2d(y, conv["weight"], conv.get("bias"))

    def branch(part, y):
        y = convolved(y, part.conv1).relu()
        return convolved(part.bn(y) if getattr(part, "bn", None) is not None else y, part.conv2)

    flat = phases.flatten(0, 1)
    if kind == "perceptron":
        return convolved(flat, scorer.conv).mean((1, 2, 3)).view(-1, 4)
    if "conv" in kind:
        y = branch(scorer, flat)
        return (y + flat if kind == "residual_conv" else y).mean((1, 2, 3)).view(-1, 4)
    if kind == "graph":
        nodes = convolved(flat, scorer.conv1).relu().mean((2, 3)).unflatten(0, (-1, 4))
        scores = []
        for k in range(4):
            messages = [torch.cat([nodes[:, j], nodes[:, k]], 1) for j in range(4)]
            for layer in scorer.edge:
                messages = [layer(m).relu() for m in messages]
            first, last = scorer.node
            scores.append(last(first(sum(messages) / 4).relu()))
        return torch.cat(scores, 1)
    phi, psi, beta = (branch(p, flat).mean((2, 3)).unflatten(0, (-1, 4)) for p in (scorer.phi, scorer.psi, scorer.beta))
    return torch.einsum("bkl,bl->bk", torch.einsum("bkh,blh->bkl", phi, psi).softmax(2), beta.mean(2))


def built(kind, padding="circular", channels=5, dtype=torch.float64):
    torch.manual_seed(0)
    hidden = channels if kind == "residual_conv" else 3
    return phase_scorer(kind, channels=channels, hidden=hidden, padding=padding, dtype=dtype).eval()


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("kind", SCORERS)
def test_scores_are_those_of_the_whole_convolutions(kind, padding):
    x, scorer = torch.randn(3, 5, 8, 10, dtype=torch.float64), built(kind, padding)
    torch.testing.assert_close(scorer(x), textbook(scorer, kind, x))
    last = x.to(memory_format=torch.channels_last)
    torch.testing.assert_close(scorer(last), scorer(x))


@pytest.mark.parametrize("kind", SCORERS)
def test_a_circular_shift_permutes_the_scores_as_it_does_the_phases(kind):
    x, scorer = torch.randn(2, 5, 8, 6, dtype=torch.float64), built(kind)
    z = scorer(x).unflatten(1, (2, 2))  # column, row
    for down, right in ((1, 0), (0, 1), (1, 1), (-3, 2), (4, 5)):
        torch.testing.assert_close(
            scorer(x.roll((down, right), (2, 3))).unflatten(1, (2, 2)), z.roll((right, down), (1, 2))
        )


def test_a_padding_that_does_not_wrap_breaks_the_law():
    x, scorer = torch.randn(2, 5, 8, 6, dtype=torch.float64), built("conv", "zeros")
    moved = scorer(x.roll(1, 2)).unflatten(1, (2, 2)).roll(1, 2).flatten(1)
    assert (moved - scorer(x)).abs().max() > 1e-3


@pytest.mark.parametrize("stride", [1, 3, (2, 3), (1, 2)])
@pytest.mark.parametrize("kind", SCORERS)
def test_every_stride_has_as_many_scores_as_phases(kind, stride):
    s, t = (stride, stride) if isinstance(stride, int) else stride
    x, scorer = torch.randn(2, 5, 6 * s, 4 * t, dtype=torch.float64), built(kind)
    z = scorer(x, stride).unflatten(1, (t, s))
    torch.testing.assert_close(scorer(x.roll((1, 2), (2, 3)), stride).unflatten(1, (t, s)), z.roll((2, 1), (1, 2)))


@pytest.mark.parametrize("padding", ["circular", "zeros"])
@pytest.mark.parametrize("kind", SCORERS)
def test_gradients_of_scores(kind, padding):
    scorer = built(kind, padding, channels=2)
    x = torch.randn(2, 2, 4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(scorer, (x,))
    want = torch.autograd.grad(textbook(scorer, kind, x).square().sum(), list(scorer.parameters()))
    got = torch.autograd.grad(scorer(x).square().sum(), list(scorer.parameters()))
    torch.testing.assert_close(got, want)


def test_the_last_bias_moves_all_scores_alike():
    scorer, x = built("conv"), torch.randn(2, 5, 8, 8, dtype=torch.float64)
    before = scorer(x)
    with torch.no_grad():
        scorer.conv2["bias"].add_(1.0)
    torch.testing.assert_close(scorer(x), before + 1)


def test_parameters_are_as_many_as_the_formula_says_and_no_convolution_of_a_backbone():
    scorer = phase_scorer("conv", channels=64, hidden=8)
    assert sum(p.numel() for p in scorer.parameters()) == 9 * 64 * 8 + 8 + 9 * 8 * 8 + 8
    assert not [m for m in scorer.modules() if isinstance(m, nn.Conv2d)]
    reference = nn.Conv2d(64, 8, 3)
    assert scorer.conv1["weight"].abs().max() <= reference.weight.abs().max() * 1.05


def test_wrong_use_says_what_is_allowed():
    with pytest.raises(
        ValueError, match="conv, residual_conv, attention, normalised_attention, graph, perceptron, got 'x'"
    ):
        phase_scorer("x", channels=3)
    with pytest.raises(ValueError, match="as many hidden channels as the map, 4, got 3"):
        phase_scorer("residual_conv", channels=4, hidden=3)
    with pytest.raises(ValueError, match="hidden must be a positive number of channels, got 0"):
        phase_scorer("conv", channels=4, hidden=0)
    with pytest.raises(ValueError, match=r"padding must be one of .*, got 'wrap'"):
        phase_scorer("conv", channels=4, padding="wrap")
    with pytest.raises(ValueError, match=r"a map of 7x8 has no phases of one size at stride \(2, 2\)"):
        phase_scorer("conv", channels=3)(torch.randn(1, 3, 7, 8))
