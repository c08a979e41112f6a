import pytest
import torch

from stillpoint import pipelines
from stillpoint.core.base.errors import UserError

CANVAS = {"fashion_mnist": (28, 56), "digits": (32, 64)}
MATCHED = [n for n in pipelines.names("translations/*") if n.split("/")[1] not in ("TwoFullNet", "TwoConvTwoFullNet")]


def made(name, dataset="fashion_mnist", *pairs):
    padding, size = CANVAS[dataset]
    canvas = ["DATA.IMAGE_SIZE", str(size), "AUGMENT.CANVAS_PADDING", str(padding), *pairs]
    return pipelines.build(pipelines.without_recipe(name, dataset, canvas))


def parameters(net):
    return sum(p.numel() for p in net.parameters())


def test_the_notebooks_networks_have_its_parameters():
    assert parameters(made("translations/TwoFullNet")) == 3136 * 100 + 100 + 100 * 10 + 10
    assert parameters(made("translations/TwoConvTwoFullNet")) == 780 + 3780 + 363_100 + 1010


@pytest.mark.parametrize("dataset", CANVAS)
@pytest.mark.parametrize("name", MATCHED)
def test_parameters_are_equal_within_five_per_cent(name, dataset):
    target = parameters(made("translations/TwoConvTwoFullNet", dataset))
    net = made(name, dataset)
    assert abs(parameters(net) / target - 1) < 0.05
    size = CANVAS[dataset][1]
    assert net.eval()(torch.zeros(1, 1, size, size)).shape == (1, 10)


def test_a_seed_decides_the_weights_whatever_was_tried_to_match_them():
    first, second = made("translations/cnn_average"), made("translations/cnn_average")
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_the_recipe_is_the_notebooks():
    config = pipelines.configure("translations/TwoFullNet", "fashion_mnist")
    train = config.train
    stated = (train.optimizer, train.lr, train.momentum, train.epochs, train.batch_size, train.loss, train.schedule)
    assert stated == ("sgd", 0.01, 0.5, 10, 25, "nll", "constant") and train.weight_decay == 0
    assert (config.data.mean, config.data.std, config.data.image_size) == ((0.1307,), (0.3081,), 56)
    assert config.augment.canvas_padding == 28 and config.data.validation == 0 and config.evaluate.batch_size == 250


def test_a_crop_larger_than_the_padded_image_is_refused():
    from stillpoint.core.data.build import augmentation

    config = pipelines.configure("translations/TwoFullNet", "fashion_mnist", ["DATA.IMAGE_SIZE", "85"])
    with pytest.raises(UserError, match=r"85 is more than 28 \+ 2 x AUGMENT.CANVAS_PADDING"):
        augmentation(config, training=True)


def test_missing_files_are_named_with_their_place(tmp_path):
    from stillpoint.core.data.build import loader

    config = pipelines.configure("translations/TwoFullNet", "fashion_mnist")
    with pytest.raises(UserError) as error:
        loader(config, "train", tmp_path)
    for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1", "FashionMNIST/raw"):
        assert part in str(error.value)
