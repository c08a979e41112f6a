"""The last layer, which a fine-tune with TRAIN.FINETUNE_HEAD new leaves as it is, is the one that gives the classes."""

import pytest
from torch import nn

from stillpoint import pipelines
from stillpoint.core.runs.checkpoint import head_of

SMALL = {"aps/resnet18_aps3": {"width": 0.0625}, "blurpool/vgg11_bn": {"width": 0.125}}


@pytest.mark.parametrize(
    "name",
    [
        *("aps/resnet18_aps3", "aps/resnet20", "blurpool/vgg11_bn", "blurpool/mobilenet_v2", "blurpool/densenet121"),
        *("sdnet/sdnet18", "translations/TwoFullNet", "translations/cnn", "wavelet_twins/RI"),
    ],
)
def test_the_head_of_a_network_gives_its_classes(name: str) -> None:
    head = pipelines.create(name, dataset="digits", **SMALL.get(name, {}))
    head = head.get_submodule(head_of(head))
    assert isinstance(head, nn.Linear) and head.out_features == 10
