from collections import namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from stillpoint.core.metrics.outputs import logits_of

LOGITS, OTHER = torch.arange(6.0).view(2, 3), torch.zeros(2, 4)
Named = namedtuple("Named", ["loss", "logits"])


@dataclass
class Fields:
    logits: torch.Tensor
    loss: float = 0.0


class Ordered(dict):
    """What Hugging Face's ModelOutput is: a mapping whose entries are attributes too."""

    def __getattr__(self, name):
        if name not in self:
            raise AttributeError(name)
        return self[name]


@pytest.mark.parametrize(
    ("output", "part"),
    [
        (LOGITS, None),
        (LOGITS.numpy(), None),
        ({"logits": LOGITS, "hidden": OTHER}, None),
        ({"out": LOGITS, "aux": OTHER}, None),
        ({"out": OTHER, "logits": LOGITS}, None),
        (Ordered(loss=OTHER, logits=LOGITS), None),
        (Named(0.5, LOGITS), None),
        (Fields(LOGITS), None),
        ((LOGITS, {"hidden": 1}), None),
        ([LOGITS], None),
        ((OTHER, LOGITS), 1),
        ({"scores": LOGITS}, "scores"),
        (Fields(LOGITS), "logits"),
        ({"a": {"b": LOGITS}}, lambda output: output["a"]["b"]),
    ],
)
def test_the_logits_are_found(output, part):
    assert torch.equal(logits_of(output, part), LOGITS)


@pytest.mark.parametrize(
    ("output", "part", "words"),
    [
        ({"scores": LOGITS, "boxes": OTHER}, None, "scores, boxes.*logits or out.*output="),
        ((LOGITS, OTHER), None, "holds 2 tensors.*output="),
        ("cat", None, "of type str"),
        ({"scores": LOGITS}, "logits", r"no part 'logits'. It holds scores"),
        ((LOGITS,), 3, "no part 3"),
    ],
)
def test_an_output_that_leaves_a_choice_is_refused(output, part, words):
    with pytest.raises(ValueError, match=words):
        logits_of(output, part)


def test_an_array_that_may_not_be_written_is_copied_without_a_warning(recwarn):
    array = np.ones((2, 3))
    array.flags.writeable = False
    assert logits_of(array).shape == (2, 3) and not recwarn.list
