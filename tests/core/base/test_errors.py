"""A check of ours becomes a sentence; a fault keeps its traceback."""

import pytest
import torch

from stillpoint.core.base.errors import Unfit, checked
from stillpoint.core.layers import BlurPool2d


def test_what_a_layer_refuses_is_told_as_it_stands() -> None:
    with pytest.raises(Unfit) as error, checked():
        BlurPool2d(3, size=0)
    assert "0" in str(error.value) and isinstance(error.value.__cause__, ValueError)


def test_what_python_a_library_or_foreign_code_raises_passes() -> None:
    def unpack() -> None:
        _first, _second = (1, 2, 3)  # type: ignore[misc]

    def foreign() -> None:
        raise ValueError("not a check of this package")

    for fault in (unpack, foreign, lambda: int("x"), lambda: torch.optim.SGD([torch.zeros(1)], lr=-1.0)):
        with pytest.raises(ValueError, match=r".") as error, checked():
            fault()
        assert not isinstance(error.value, Unfit)
