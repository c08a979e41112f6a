import pytest
import torch

from stillpoint.core.layers import (
    SCORERS,
    LearnablePolyphaseDownsample2d,
    LearnablePolyphaseUpsample2d,
    PolyphaseUpsample2d,
    SoftGrid,
    blur_pool2d,
    mix_phases,
    phase_weights,
    polyphase_components,
    spread_phases,
    take_phase,
)
from stillpoint.core.layers.adaptive_blur import AdaptiveBlur2d
from stillpoint.core.layers.gumbel import set_noise, set_tau

SHIFTS = ((1, 0), (0, 1), (1, 1), (-3, 2), (5, 7))


def layer(**options):
    torch.manual_seed(0)
    return LearnablePolyphaseDownsample2d(8, **{"dtype": torch.float64, **options})


def images(*shape, dtype=torch.float64):
    return torch.randn(*(shape or (3, 8, 8, 10)), generator=torch.Generator().manual_seed(1), dtype=dtype)


def moved(y, phase, shift):
    """The samples of each image, rolled as its grid was."""
    (i, j), found = shift, []
    for image, k in zip(y, phase.tolist(), strict=True):
        found.append(image.roll(((k % 2 + i) // 2, (k // 2 + j) // 2), (1, 2)))
    return torch.stack(found)


@pytest.mark.parametrize("options", [
    *({"scorer": kind} for kind in SCORERS), {"size": 2}, {"size": 3}, {"size": 3, "select": "before_blur"},
    {"filter": "adaptive", "size": 3},
])  # fmt: skip
def test_a_hard_choice_moves_with_the_map(options):
    f, x = layer(**options).eval(), images()
    y, phase = f(x, return_grid=True)
    assert phase.dtype == torch.int64
    for shift in SHIFTS:
        torch.testing.assert_close(f(x.roll(shift, (2, 3))), moved(y, phase, shift))


@pytest.mark.parametrize("options", [{"scorer_padding": "zeros"}, {"size": 3, "padding": "zeros"}])
def test_a_padding_that_does_not_wrap_breaks_the_law(options):
    f, x = layer(**options).eval(), images(8, 8, 6, 6)
    means = torch.stack([f(x.roll(shift, (2, 3))).mean((2, 3)) for shift in ((0, 0), *SHIFTS)])
    assert (means - means[0]).abs().max() > 1e-3


@pytest.mark.parametrize("extension", ["circular", "zeros"])
def test_odd_sides_break_the_law(extension):
    f, x = layer(extension=extension).eval(), images(8, 8, 7, 7)
    means = torch.stack([f(x.roll(shift, (2, 3))).square().mean((2, 3)) for shift in ((0, 0), *SHIFTS)])
    assert (means - means[0]).abs().max() > 1e-3


def test_a_soft_choice_moves_by_whole_strides_only():
    f, x = layer(test_sampling="softmax").eval(), images()
    set_tau(f, 0.01)  # the scores of an untrained scorer are near each other
    y, grid = f(x, return_grid=True)
    assert isinstance(grid, SoftGrid) and not torch.allclose(
        grid.weights, torch.full_like(grid.weights, 0.25), atol=0.02
    )
    torch.testing.assert_close(f(x.roll((2, -4), (2, 3))), y.roll((1, -2), (2, 3)))
    odd = f(x.roll((1, 0), (2, 3)))
    assert min((odd - y.roll(k, 2)).abs().max() for k in (0, 1)) > 1e-2


def test_training_mixes_and_evaluation_chooses():
    f, x, noise = layer(), images(), torch.randn(3, 4, dtype=torch.float64)
    y, grid = f(x, return_grid=True, noise=noise)
    torch.testing.assert_close(grid.weights, ((grid.scores + noise) / 1.0).softmax(1))
    phases = polyphase_components(x)
    torch.testing.assert_close(y, (grid.weights[:, :, None, None, None] * phases).sum(1))
    y, phase = f.eval()(x, return_grid=True)
    assert torch.equal(phase, f.scores(x).argmax(1)) and torch.equal(y, take_phase(x, phase))
    assert torch.equal(f.choose(x), phase) and torch.equal(f.sample(x, phase), y)


def test_scores_learn_in_training_and_not_in_evaluation():
    f, x = layer(), images()
    f(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in f.parameters())
    f.zero_grad()
    x.requires_grad_()
    f.eval()(x).square().sum().backward()
    assert all(p.grad is None for p in f.parameters()) and x.grad.count_nonzero() == x.numel() // 4


@pytest.mark.parametrize("options", [{}, {"size": 3}, {"sampling": "softmax"}, {"extension": "zeros"}])
def test_gradients_of_the_soft_choice(options):
    f, x = layer(hidden=2, **options), images(2, 8, 4, 6).requires_grad_()
    noise = torch.randn(2, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x, *weights: f(x, noise=noise), (x, *f.parameters()))


def test_the_scores_are_those_of_the_filtered_map_unless_told():
    x = images()
    after, before = layer(size=3).eval(), layer(size=3, select="before_blur").eval()
    before.load_state_dict(after.state_dict())
    bare = layer().eval()
    bare.load_state_dict(after.state_dict())
    assert torch.equal(before.scores(x), bare.scores(x))
    assert not torch.allclose(after.scores(x), bare.scores(x))


def test_zeros_at_odd_sizes_are_an_option_and_the_wrap_is_the_default():
    x = torch.ones(1, 8, 3, 3, dtype=torch.float64)
    last = torch.tensor([3])
    assert layer()(x, last).mean() == 1.0
    y = layer(extension="zeros")(x, last)
    # the last phase holds the only inner pixel, and then what was appended
    assert y[0, 0].tolist() == [[1.0, 0.0], [0.0, 0.0]]


def test_ties_go_to_the_lowest_phase():
    f = layer().eval()
    with torch.no_grad():
        for p in f.parameters():
            p.zero_()
    assert f.choose(images()).tolist() == [0, 0, 0]


def test_a_follower_takes_either_grid_and_has_nothing_that_idles():
    f, x, other = layer(size=3), images(), images(3, 5, 8, 10)
    follower = f.follower(5)
    assert not follower.chooses and not list(follower.parameters()) and not follower.state_dict()
    _, soft = f(x, return_grid=True)
    torch.testing.assert_close(follower(other, soft), mix_phases(follower.filter(other), soft.weights))
    _, hard = f.eval()(x, return_grid=True)
    assert torch.equal(follower(other, hard), take_phase(follower.filter(other), hard))
    assert torch.equal(follower(other), follower.filter(other)[..., ::2, ::2])
    adaptive = layer(filter="adaptive", size=3).follower(8)
    assert isinstance(adaptive.filter, AdaptiveBlur2d) and list(adaptive.parameters())


def test_an_adaptive_filter_takes_its_softmax_over_all_groups_together():
    f = layer(filter="adaptive", size=3, groups=2).eval()
    assert f.filter.normalise == "joint" and f.filter.padding == "circular"
    assert f(torch.ones(1, 8, 6, 6, dtype=torch.float64)).mean() < 0.9  # no group's filter sums to one


def test_upsampling_is_the_way_back():
    f, up, x = layer().eval(), LearnablePolyphaseUpsample2d(8), images()
    y, phase = f(x, return_grid=True)
    z = up(y, phase)
    assert torch.equal(take_phase(z, phase), y) and z.count_nonzero() == y.count_nonzero()
    for shift in SHIFTS:
        rolled, grid = f(x.roll(shift, (2, 3)), return_grid=True)
        assert torch.equal(up(rolled, grid), z.roll(shift, (2, 3)))
    odd, grid = f(images(2, 8, 7, 7), return_grid=True)
    assert up(odd, grid).shape[2:] == (8, 8)


@pytest.mark.parametrize("shape", [(7, 9), (8, 9), (7, 10)])
@pytest.mark.parametrize("up", [LearnablePolyphaseUpsample2d, PolyphaseUpsample2d])
def test_odd_sides_come_back_as_they_were_where_the_size_is_told(up, shape):
    """And longer by one where it is not, as the authors have it."""
    f, x = layer(extension="zeros").eval(), images(3, 8, *shape)
    y, phase = f(x, return_grid=True)
    g = torch.randn_like(y)
    back = up(8, dtype=torch.float64)
    assert back(y, phase).shape[2:] == tuple(side + side % 2 for side in shape)
    placed = back(g, phase, size=shape)
    assert placed.shape == x.shape
    # the adjoint of sampling after an extension by zeros
    torch.testing.assert_close((placed * x).sum(), (g * f.sample(x, phase)).sum())
    smooth = up(8, size=3, dtype=torch.float64)(g, phase, size=shape)
    torch.testing.assert_close(smooth, blur_pool2d(placed, stride=1, size=3, padding="circular"))


@pytest.mark.parametrize("size", [(6, 8), (9, 8), (8, 0)])
def test_a_size_of_which_the_map_was_not_made_is_refused(size):
    y, phase = torch.zeros(1, 8, 4, 4), torch.zeros(1, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"size must be 7 to 8 x 7 to 8, to be extended to \(8, 8\), got"):
        LearnablePolyphaseUpsample2d(8)(y, phase, size=size)


def test_upsampling_in_training_fills_every_grid_and_is_the_adjoint():
    y, weights = images(3, 8, 4, 5), torch.rand(3, 4, dtype=torch.float64)
    up = LearnablePolyphaseUpsample2d(8, size=3, gain=4.0, dtype=torch.float64)
    grid = SoftGrid(weights, weights.log())
    torch.testing.assert_close(up(y, grid), 4 * up.filter(spread_phases(y, weights)))
    x = images()
    torch.testing.assert_close((mix_phases(x, weights) * y).sum(), (x * spread_phases(y, weights)).sum())


def test_the_authors_second_softmax_and_second_draw_are_options():
    y, weights, scores = images(3, 8, 4, 5), torch.rand(3, 4).softmax(1), torch.randn(3, 4)
    grid, noise = SoftGrid(weights, scores), torch.randn(3, 4)
    once, twice = LearnablePolyphaseUpsample2d().eval(), LearnablePolyphaseUpsample2d(soften_twice=True).eval()
    assert torch.equal(once(y, grid), spread_phases(y, weights))
    twice.set_tau(0.4)
    torch.testing.assert_close(twice(y, grid), spread_phases(y, (weights / 0.4).softmax(1)))
    again = LearnablePolyphaseUpsample2d(redraw=True)
    again.set_tau(0.6)
    want = spread_phases(y, ((scores + noise) / 0.6).softmax(1))
    torch.testing.assert_close(again(y, grid, noise=noise), want)


def test_noise_is_a_function_of_its_key():
    f, x = layer(), images()
    f.set_noise(0, 3, 5, "layer2.0.pool")
    first = f(x)
    assert torch.equal(f(x), first)
    f.set_noise(0, 3, 6, "layer2.0.pool")
    assert not torch.equal(f(x), first)
    f.set_noise(0, 3, 5, "layer2.0.pool")
    assert torch.equal(f(x), first)
    net = torch.nn.ModuleList([layer(), layer()])
    set_noise(net, 0, 3, 5)
    assert not torch.equal(net[0](x), net[1](x))  # the path is part of the key


def test_noise_without_a_key_is_that_of_pytorch():
    f, x = layer(), images()
    torch.manual_seed(11)
    y = f(x)
    torch.manual_seed(11)
    noise = -torch.empty(3, 4, dtype=torch.float64).exponential_().log()
    assert torch.equal(y, f(x, noise=noise))


def test_keyed_noise_is_gumbels():
    f = layer()
    f.set_noise(0)
    g = f._noise(torch.empty(200_000, 4, dtype=torch.float64))
    assert abs(g.mean() - 0.5772) < 5e-3 and abs(g.var() - torch.pi**2 / 6) < 2e-2
    assert torch.corrcoef(g.T).fill_diagonal_(0).abs().max() < 1e-2


def test_the_temperature_sharpens_and_is_kept():
    scores = torch.tensor([[0.1, 0.3, 0.2, 0.0]])
    assert phase_weights(scores, tau=1e-3).argmax() == 1 and phase_weights(scores, tau=1e-3).max() > 1 - 1e-6
    f = layer()
    f.set_tau(0.25)
    assert f.state_dict()["tau"] == 0.25
    for tau in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="tau must be positive and finite"):
            f.set_tau(tau)
        with pytest.raises(ValueError, match="tau must be positive and finite"):
            phase_weights(scores, tau=tau)


def test_a_hard_choice_is_made_in_float32_under_autocast():
    torch.manual_seed(0)
    f, x = LearnablePolyphaseDownsample2d(8).eval(), images(64, 8, 8, 8, dtype=torch.float32)
    phase = f.choose(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(f.choose(x), phase) and f.scores(x).dtype == torch.float32


def test_scorers_are_found_by_their_name():
    assert all(".scorer." in f".{name}" for name, _ in layer(size=3).named_parameters())


def test_wrong_use_says_what_is_allowed():
    x = images()
    for options, words in (
        ({"filter": "gauss"}, "filter must be one of binomial, adaptive, got 'gauss'"),
        ({"select": "both"}, "select must be one of before_blur, after_blur, got 'both'"),
        ({"sampling": "hard"}, "sampling must be one of argmax, softmax, gumbel, got 'hard'"),
        ({"test_sampling": "hard"}, "test_sampling must be one of argmax, softmax, gumbel, got 'hard'"),
        ({"extension": "mirror"}, "extension must be one of circular, zeros, got 'mirror'"),
        ({"reduction": 0}, "reduction must be a positive integer, got 0"),
        ({"filter": "adaptive", "size": 4}, "size must be an odd positive integer, got 4"),
    ):
        with pytest.raises(ValueError, match=words):
            LearnablePolyphaseDownsample2d(8, **options)
    with pytest.raises(ValueError, match=r"noise must have the scores' shape \(3, 4\), got \(3, 3\)"):
        layer()(x, noise=torch.zeros(3, 3))
    with pytest.raises(ValueError, match=r"weights must be \(3, 4\) or \(3, 8, 4\)"):
        spread_phases(x, torch.zeros(3, 5))
    with pytest.raises(ValueError, match="an adaptive filter needs the number of channels"):
        LearnablePolyphaseUpsample2d(filter="adaptive")


def test_a_narrow_scorer_keeps_units_enough():
    """One or two hidden units may be dead for every map, and then all scores tie and nothing is chosen."""
    widths = {c: LearnablePolyphaseDownsample2d(c, reduction=8).scorer.hidden for c in (4, 16, 64, 128, 512)}
    assert widths == {4: 4, 16: 8, 64: 8, 128: 16, 512: 64}
