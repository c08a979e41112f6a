"""A registered network as a scikit-learn classifier."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import estimator_checks_generator

from stillpoint.core.base.errors import UserError
from stillpoint.pipelines.estimator import NetworkClassifier

SETTINGS = ("TRAIN.EPOCHS", "12", "TRAIN.BATCH_SIZE", "16", "TRAIN.LR", "0.01", "TRAIN.SCHEDULE", "constant")


def digits(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Zeros and ones, drawn large, with names for labels."""
    data = load_digits(n_class=2)
    images = np.kron(data.images[:count] * (255 / 16), np.ones((4, 4))).astype(np.uint8)
    return images, np.array(["zero", "one"])[data.target[:count]]


def test_it_learns_predicts_and_repeats_itself() -> None:
    x, y = digits(64)
    model = NetworkClassifier(
        "translations/TwoFullNet", settings=("AUGMENT.CANVAS_PADDING", "0", "DATA.IMAGE_SIZE", "32", *SETTINGS)
    )
    model.fit(x, y)
    assert list(model.classes_) == ["one", "zero"] and len(model.history_) == 12
    chances = model.predict_proba(x)
    assert chances.shape == (64, 2) and np.allclose(chances.sum(1), 1, atol=1e-6)
    assert set(model.predict(x)) <= {"one", "zero"} and model.score(x, y) > 0.9
    again = clone(model).fit(x, y)
    assert np.array_equal(again.predict_proba(x), chances)
    assert not hasattr(clone(model), "net_")


def test_parameters_are_read_set_and_cloned() -> None:
    model = NetworkClassifier("wavelet_twins/R18wyC", settings=SETTINGS, seed=3)
    assert model.get_params()["seed"] == 3 and model.get_params()["network"] == "wavelet_twins/R18wyC"
    assert clone(model).set_params(seed=4).get_params() == {**model.get_params(), "seed": 4}


#: scikit-learn's own checks, but for those that fit tables of numbers, which are no images
CONTRACT = (
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_estimator_tags_renamed",
    "check_valid_tag_types",
    "check_mixin_order",
    "check_no_attributes_set_in_init",
    "check_do_not_raise_errors_in_init_or_set_param",
    "check_parameters_default_constructible",
    "check_get_params_invariance",
    "check_set_params",
)


def test_it_keeps_scikit_learns_contract() -> None:
    kept = set()
    for model, check in estimator_checks_generator(NetworkClassifier("wavelet_twins/R18wyC_mod")):
        name = check.func.__name__
        if name.startswith(CONTRACT):
            check(model)
            kept.add(name)
    assert len(kept) == len(CONTRACT)
    for method in ("predict", "predict_proba"):
        with pytest.raises(NotFittedError):
            getattr(NetworkClassifier("aps/resnet20"), method)(digits(2)[0])


def test_what_does_not_fit_is_told() -> None:
    x, y = digits(4)
    model = NetworkClassifier("aps/resnet20")
    with pytest.raises(UserError, match=r"images for digits must be uint8 \(N, 1, 32, 32\), not float64"):
        model.fit(x.astype(float), y)
    with pytest.raises(UserError, match="one label for each image, not 3 for 4"):
        model.fit(x, y[:3])
    with pytest.raises(UserError, match=r"labels \(N,\), not \(4, 32, 32\) and \(\)"):
        model.fit(x, None)
    with pytest.raises(ValueError, match="continuous"):
        model.fit(x, np.linspace(0, 1, 4))
    with pytest.raises(UserError, match="11 different labels, but digits has 10 classes"):
        model.fit(np.repeat(x, 3, 0)[:11], np.arange(11))
    with pytest.raises(UserError, match="unknown network"):
        NetworkClassifier("aps/resnet21").fit(x, y)
