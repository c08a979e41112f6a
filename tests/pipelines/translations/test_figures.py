"""The notebook's pictures can be read in grey."""

import numpy as np
import pytest

from stillpoint import pipelines
from stillpoint.pipelines.translations import figures
from stillpoint.pipelines.translations.passes import published_passes

PUBLISHED = pipelines.paper("translations").published


@pytest.fixture
def kept(monkeypatch):
    found = []
    monkeypatch.setattr(figures, "save", lambda figure, path: (found.append(figure), path)[1])
    return found


def test_curves_have_a_marker_each_and_the_notebook_s_numbers_are_hollow(tmp_path, kept):
    known = list(published_passes(PUBLISHED, "fashion_mnist", "TwoFullNet").values())
    curves = {"TwoFullNet": [known], "TwoConvTwoFullNet": [known]}
    figures.learning_curves(curves, {"TwoFullNet": known}, tmp_path / "a.png", title="t")
    for axis in kept[0].axes:
        ours, theirs, other = axis.get_lines()
        assert ours.get_marker() == theirs.get_marker() != other.get_marker()
        assert theirs.get_markerfacecolor() == "none" and theirs.get_linestyle() == "None"


def test_what_a_class_asks_for_is_grey_where_it_is_zero(tmp_path, kept):
    images = np.stack([np.eye(4) - np.eye(4)[::-1]] * 2)
    figures.class_images(images, np.zeros(2), np.eye(2), ["a", "b"], tmp_path / "a.png", title="t")
    (shown,) = kept[0].axes[0].get_images()
    colour = shown.cmap(shown.norm(np.array([-1.0, 0.0, 1.0])))[:, :3]
    assert (colour == colour[:, :1]).all() and colour[0, 0] < colour[1, 0] < colour[2, 0]
