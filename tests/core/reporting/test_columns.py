"""Papers add to core's columns or put them in another order."""

import pytest

from stillpoint import pipelines
from stillpoint.core.reporting.columns import COLUMNS, Column, arranged, show

OWN = Column("videos_consistency", "consistency of videos")


def test_a_papers_columns_stand_among_cores_and_none_is_lost() -> None:
    found = arranged("crop_consistency", OWN, Column("accuracy", "accuracy, one crop"), without=("accuracy_top5",))
    assert [column.key for column in found[:3]] == ["crop_consistency", "videos_consistency", "accuracy"]
    assert found[2].title == "accuracy, one crop"
    rest = [c for c in COLUMNS if c.key not in ("crop_consistency", "accuracy", "accuracy_top5")]
    assert list(found[3:]) == rest


@pytest.mark.parametrize("given", [{"own": ("acuracy",)}, {"without": ("acuracy",)}])
def test_a_column_that_core_does_not_have_is_refused(given: dict[str, tuple[str, ...]]) -> None:
    with pytest.raises(ValueError, match="core has no column 'acuracy': choose from accuracy, "):
        arranged(*given.get("own", ()), without=given.get("without", ()))


def test_every_classifiers_table_has_what_every_table_has() -> None:
    """But for those that its paper says it does not show, a column of core's is a column of every paper's."""
    hidden = {"blurpool": {"circular_max_logit_change"}, "translations": {"circular_max_logit_change"}}
    for name in pipelines.papers():
        shown = {column.key for column in pipelines.paper(name).shown(pipelines.recipe_config(name, "digits")).columns}
        assert {column.key for column in COLUMNS} - shown == hidden.get(name, set()), name


@pytest.mark.parametrize(
    ("unit", "value", "spread", "text"),
    [
        ("%", 95.314, 0.416, "95.31 ± 0.42"),
        ("%", 100.0, 0.0, "100 ± 0.00"),
        ("%", 99.998, None, "99.998"),
        ("nats", 0.08182, 0.001, "0.0818 ± 0.0010"),
        ("", 3.1e-7, 1.0, "3.1e-07"),
        ("", 0.0, None, "0"),
        ("%", None, None, ""),
    ],
)
def test_a_number_and_its_spread_in_its_unit(unit: str, value: float | None, spread: float | None, text: str) -> None:
    assert show(Column("a", "a", unit), value, spread) == text


def test_a_difference_has_its_sign() -> None:
    assert [show(Column("a", "a"), value, signed=True) for value in (0.5, -12.344)] == ["+0.50", "-12.34"]
