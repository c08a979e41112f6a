"""Checkpoints of others: wrappers, names, filters."""

import pytest
import torch

from stillpoint.core.base.errors import UserError
from stillpoint.core.runs.foreign import translate, unwrapped


def test_wrappers_and_prefixes_are_taken_off() -> None:
    state = {"features.module.0.weight": torch.ones(1), "module.fc.bias": torch.zeros(1)}
    assert list(unwrapped({"epoch": 3, "state_dict": state})) == ["features.0.weight", "fc.bias"]
    assert list(unwrapped({"model": {"net": {"a": torch.ones(1)}}})) == ["a"]


@pytest.mark.parametrize("found", [{}, [1], {"epoch": 3}, {"state_dict": {"a": "text"}}, None])
def test_what_holds_no_tensors_is_refused(found: object) -> None:
    with pytest.raises(UserError, match="no named tensors"):
        unwrapped(found)


def test_names_are_translated_strictly() -> None:
    names = {"conv.weight": "conv.1.weight"}
    assert list(translate({"conv.1.weight": torch.ones(1)}, names)) == ["conv.weight"]
    with pytest.raises(UserError, match=r"missing conv\.1\.weight; unexpected other"):
        translate({"other": torch.ones(1)}, names)


def test_stored_filters_must_be_ours_and_may_be_absent() -> None:
    ours = torch.tensor([[0.25, 0.25], [0.25, 0.25]])
    filters = {"blur.filt": ours}
    assert translate({"blur.filt": ours.expand(3, 1, 2, 2)}, {}, filters=filters) == {}
    assert translate({}, {}, filters=filters) == {}
    for other in (2 * ours, torch.ones(3, 1, 3, 3) / 9):
        with pytest.raises(UserError, match=r"blur\.filt holds another filter"):
            translate({"blur.filt": other}, {}, filters=filters)
