"""The schema: what a configuration may hold, and what decides a run."""

import math

import pytest
from pydantic import ValidationError

from stillpoint import pipelines
from stillpoint.core.base.errors import UserError
from stillpoint.core.config.merge import merge
from stillpoint.core.config.schema import RunConfig, json_schema, known_keys


def test_a_configuration_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        RunConfig().train.lr = 1.0  # type: ignore[misc]


def test_the_digest_is_of_what_decides_the_weights() -> None:
    config = RunConfig()
    shown = merge(
        RunConfig, [], ["TITLE", "other", "EVALUATE.METRICS", "[circular]", "EVALUATE.REPEATS", "9", "SEEDS", "1"]
    )
    assert shown.digest() == config.digest()
    assert merge(RunConfig, [], ["SEED", "1"]).digest() != config.digest()
    assert merge(RunConfig, [], ["TRAIN.LR", "0.2"]).digest() != config.digest()


def test_the_schema_is_in_the_dialect_that_snakemake_reads() -> None:
    schema = json_schema(RunConfig)
    assert schema["$schema"].startswith("https://json-schema.org/draft/2020-12")
    assert set(schema["properties"]) >= {key.split(".")[0] for key in known_keys(RunConfig)}


def numbers(schema: type) -> list[str]:
    """The keys of all papers' settings that hold a fraction by default."""
    keys = [(key, schema().dump()) for key in known_keys(schema)]
    found = []
    for key, value in keys:
        for part in key.split("."):
            value = value[part]
        if isinstance(value, float):
            found.append(key)
    return found


@pytest.mark.parametrize("key", ["TRAIN.EPOCHS", "TRAIN.STEP_EPOCHS", "AUGMENT.ROLL", "AUGMENT.CROP_PADDING", "SEED"])
def test_every_whole_number_can_be_counted_with(key: str) -> None:
    schema = pipelines.paper("aps").schema()
    for text in ("1" + "0" * 400, str(2**53 + 1)):
        with pytest.raises(UserError, match=key.rpartition(".")[2]):
            merge(schema, [], [key, text])
    with pytest.raises(UserError, match="MILESTONES"):
        merge(schema, [], ["TRAIN.MILESTONES", f"[{2**53 + 1}]"])


@pytest.mark.parametrize("paper", pipelines.papers())
def test_every_number_is_finite(paper: str) -> None:
    schema = pipelines.paper(paper).schema()
    tried = [*numbers(schema), "TRAIN.CLAMP", "TRAIN.CLIP_NORM"]
    assert "TRAIN.LR" in tried and len(tried) > 6
    for key in tried:
        for text in ("1e999", "-1e999", "nan", "'nan'", "inf", "9" * 400):
            with pytest.raises(UserError, match=key.replace(".", r"\.")) as error:
                merge(schema, [], [key, text])
            assert len(str(error.value)) < 300
    with pytest.raises(ValidationError, match="finite"):
        schema.model_validate({"TRAIN": {"WEIGHT_DECAY": math.inf}})


@pytest.mark.parametrize(
    ("pairs", "sentence"),
    [
        (["AUGMENT.FLIP_TURNS", "True"], "AUGMENT.FLIP_TURNS alternates flips that AUGMENT.FLIP begins: set it"),
        (["TRAIN.SIDES", "[24, 40]"], r"TRAIN.SIDES \[24, 40\] must be at most the images' side, 32 pixels"),
        (["TRAIN.SIDES", "[0]"], "greater than 0"),
        (["TRAIN.BIAS_RATE", "0"], "greater than 0"),
        (["TRAIN.WHITEN", "-1"], "greater than or equal to 0"),
        (
            ["DATA.NAME", "digits_segmentation", "TRAIN.SIDES", "[16]"],
            "TRAIN.SIDES cannot shrink the targets of digits_segmentation, one for each pixel",
        ),
    ],
)
def test_fast_recipes_that_cannot_be_are_refused(pairs: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        merge(RunConfig, [], pairs)
