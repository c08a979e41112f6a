"""Configurations: what is merged over what, what is refused and with which words, and what decides a run."""

from pathlib import Path

import pytest

from stillpoint.core.base.errors import UserError
from stillpoint.core.config.schema import (
    RunConfig,
    differences,
    json_schema,
    known_keys,
    merge,
    read_settings,
    read_yaml,
)


def test_later_layers_win_and_pairs_win_over_all() -> None:
    layers = [{"TRAIN": {"LR": 0.5, "EPOCHS": 7}}, {"TRAIN": {"LR": 0.25}}]
    config = merge(RunConfig, layers, ["TRAIN.EPOCHS", "9", "MODEL.NAME", "resnet18"])
    assert (config.train.lr, config.train.epochs, config.model.name) == (0.25, 9, "resnet18")
    assert config.train.batch_size == RunConfig().train.batch_size


def test_a_configuration_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        RunConfig().train.lr = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        (["TRAIN.LERNING_RATE", "1"], r"unknown configuration key TRAIN.LERNING_RATE"),
        (["TRIAN.LR", "1"], r"TRIAN.LR; nearest: TRAIN.LR"),
        (["TRAIN", "1"], r"TRAIN is a section"),
        (["TRAIN.LR"], r"'TRAIN.LR' has no value"),
        (["TRAIN.LR", "fast"], r"TRAIN.LR: .*\(given: 'fast'\)"),
        (["TRAIN.LR", "-1"], r"TRAIN.LR"),
        (["TRAIN.EPOCHS", "1.5"], r"TRAIN.EPOCHS"),
        (["DATA.NAME", "svhn"], r"unknown data set 'svhn'"),
        (["TRAIN.KEEP", "best", "DATA.VALIDATION", "0"], r"set DATA.VALIDATION"),
        (["TRAIN.ACCUMULATE", "3", "TRAIN.BATCH_SIZE", "256"], r"does not divide"),
        (["EVALUATE.METRICS", "[acuracy]"], r"EVALUATE.METRICS: unknown evaluation 'acuracy'; nearest: accuracy"),
        (["EVALUATE.METRICS", "[erase]"], r"set EVALUATE.ERASE"),
        (["DATA.STD", "[0.2, 0, 0.2]"], r"DATA.STD.1: .*greater than 0 \(given: 0\)"),
        (["DATA.STD", "[-0.2]"], r"DATA.STD.0: .*greater than 0 \(given: -0.2\)"),
        (["DATA.STD", "[.nan]"], r"DATA.STD.0"),
        (["DATA.STD", "[0.2, 0.3]"], r"DATA.STD has 2 values, but digits has channels: 1"),
        (
            ["DATA.NAME", "cifar10", "DATA.MEAN", "[0]"],
            r"DATA.MEAN has 1 values, but cifar10 has channels: 3",
        ),
    ],
)
def test_a_wrong_setting_is_told_in_one_sentence(pairs: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        merge(RunConfig, [], pairs)
    assert "\n" not in str(error.value)


def test_values_are_literals_and_never_code(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    call = f"__import__('pathlib').Path({str(trap)!r}).touch()"
    assert merge(RunConfig, [], ["TITLE", call]).title == call
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"TITLE: !!python/object/apply:pathlib.Path.touch [{trap}]\n")
    with pytest.raises(UserError, match="not valid YAML"):
        read_yaml(recipe, RunConfig)
    assert not trap.exists()


@pytest.mark.parametrize("text", ["[accuracy, flips]", "['accuracy', 'flips']", "[accuracy,flips]"])
def test_a_list_of_words_needs_no_quotes(text: str) -> None:
    assert merge(RunConfig, [], ["EVALUATE.METRICS", text]).evaluate.metrics == ("accuracy", "flips")


@pytest.mark.parametrize("text", ["[accuracy", "[!!python/name:os.system ]"])
def test_what_looks_like_a_list_and_is_none_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"EVALUATE\.METRICS"):
        merge(RunConfig, [], ["EVALUATE.METRICS", text])


def test_a_recipe_states_its_differences_from_its_base(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("TRAIN: {LR: 0.5, EPOCHS: 3}\nTITLE: base\n")
    (tmp_path / "own.yaml").write_text("BASE: base.yaml\nTRAIN: {LR: 0.25}\n")
    config = merge(RunConfig, [read_yaml(tmp_path / "own.yaml", RunConfig)])
    assert (config.train.lr, config.train.epochs, config.title) == (0.25, 3, "base")


def test_the_digest_is_of_what_decides_the_weights() -> None:
    config = RunConfig()
    shown = merge(RunConfig, [], ["TITLE", "other", "EVALUATE.REPEATS", "9", "SEEDS", "1"])
    assert shown.digest() == config.digest()
    assert merge(RunConfig, [], ["SEED", "1"]).digest() != config.digest()
    assert merge(RunConfig, [], ["TRAIN.LR", "0.2"]).digest() != config.digest()


def test_differences_name_keys_and_both_values() -> None:
    other = merge(RunConfig, [], ["TRAIN.LR", "0.2", "SEED", "1"])
    assert differences(RunConfig().dump(), other.dump()) == ["SEED: 0 -> 1", "TRAIN.LR: 0.1 -> 0.2"]


def test_what_is_dumped_reads_back_the_same() -> None:
    config = merge(
        RunConfig, [], ["DATA.NAME", "cifar10", "DATA.MEAN", "(0.1, 0.2, 0.3)", "TRAIN.MILESTONES", "[3, 5]"]
    )
    assert merge(RunConfig, [config.dump()]) == config


def test_the_schema_is_in_the_dialect_that_snakemake_reads() -> None:
    schema = json_schema(RunConfig)
    assert schema["$schema"].startswith("https://json-schema.org/draft/2020-12")
    assert set(schema["properties"]) >= {key.split(".")[0] for key in known_keys(RunConfig)}


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"a: [", b"only words"])
def test_damaged_settings_of_a_run_are_told_in_one_sentence(tmp_path, content):
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"config\.yaml is damaged and holds no settings"):
        read_settings(path)
