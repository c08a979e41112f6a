"""One sparse-coding layer beside the convolution that it replaces."""

from benchmarks.harness import Clock
from benchmarks.sdnet import LAYERS, layers


def test_a_layer_is_told_in_multiples_of_its_convolution_with_and_without_its_step_size():
    found = layers(Clock("cpu", 1), "cpu", 2)
    assert set(found) == set(LAYERS)
    for row in found.values():
        ratios = {name: told["of_convolution"] for name, told in row.items() if isinstance(told, dict)}
        assert ratios.pop("convolution") == 1
        # two iterations are three convolutions, and measuring the step size takes more
        assert set(ratios) == {"step size known", "step size measured"} and min(ratios.values()) > 1.5
