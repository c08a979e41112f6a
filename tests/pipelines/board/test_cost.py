"""What a network costs beside its base: counts are exact, and times are of the same turns."""

import pytest
import torch

from stillpoint import pipelines
from stillpoint.core.surgery.cost import peak_memory
from stillpoint.pipelines.board import cost

SHAPE, CLASSES = (1, 32, 32), 10


def beside(name: str, base: str = "strides") -> dict[str, float]:
    configs = [pipelines.configure(f"board/{one}", "digits") for one in (name, base)]
    return cost.beside(*(cost.network(config, config.model) for config in configs), SHAPE, CLASSES)


def test_a_network_beside_itself_costs_what_it_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "TURNS", 1)
    found = beside("strides")
    assert found["peak_memory_ratio"] == 1
    # a step holds a gradient for each parameter, and what the first convolution gives for its backward
    net = pipelines.build(pipelines.configure("board/strides", "digits"))
    assert found["parameters"] == sum(parameter.numel() for parameter in net.parameters())
    first = net.stem(torch.zeros(1, *SHAPE)).numel() * 4
    assert found["peak_memory"] > found["parameters"] * 4 / cost.BATCH + first


def test_a_blur_reads_more_and_holds_more_than_a_stride(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "TURNS", 1)
    plain, blur = beside("strides"), beside("blur3")
    assert blur["parameters"] == plain["parameters"] and blur["multiply_adds"] > plain["multiply_adds"]
    assert blur["peak_memory_ratio"] == blur["peak_memory"] / plain["peak_memory"] > 1.1


def test_the_most_that_is_held_at_once_is_counted() -> None:
    def call() -> None:
        for _ in range(3):
            one = torch.zeros(1000)
            other = torch.zeros(500) + 1
            del one, other

    # 1,000 and 500 and, while one is added, 500 numbers of four bytes; an allocator may round up
    assert 8_000 <= peak_memory(call, "cpu") <= 8_200
