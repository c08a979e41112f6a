"""How a configuration is put together: what is merged over what, what is refused and with which words."""

import time
from datetime import date
from pathlib import Path

import pytest

from stillpoint.core.base.errors import UserError
from stillpoint.core.config.merge import merge, read_recipe, read_settings
from stillpoint.core.config.schema import RunConfig, differences


def test_later_layers_win_and_pairs_win_over_all() -> None:
    layers = [{"TRAIN": {"LR": 0.5, "EPOCHS": 7}}, {"TRAIN": {"LR": 0.25}}]
    config = merge(RunConfig, layers, ["TRAIN.EPOCHS", "9", "MODEL.NAME", "resnet18"])
    assert (config.train.lr, config.train.epochs, config.model.name) == (0.25, 9, "resnet18")
    assert config.train.batch_size == RunConfig().train.batch_size


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
        read_recipe(recipe, RunConfig)
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
    config = merge(RunConfig, [read_recipe(tmp_path / "own.yaml", RunConfig)])
    assert (config.train.lr, config.train.epochs, config.title) == (0.25, 3, "base")


def test_a_base_may_be_of_all_papers_and_one_of_the_folder_comes_first(tmp_path: Path) -> None:
    own, shared = tmp_path / "paper" / "configs", tmp_path / "configs"
    for folder, rate in ((own, 0.5), (shared, 0.2)):
        folder.mkdir(parents=True)
        (folder / "both.yaml").write_text(f"TRAIN: {{LR: {rate}}}\n")
    (shared / "fast.yaml").write_text("BASE: both.yaml\nTRAIN: {EPOCHS: 3}\n")
    (own / "near.yaml").write_text("BASE: both.yaml\n")
    (own / "far.yaml").write_text("BASE: fast.yaml\n")
    found = {name: merge(RunConfig, [read_recipe(own / f"{name}.yaml", RunConfig)]).train for name in ("near", "far")}
    assert (found["near"].lr, found["far"].lr, found["far"].epochs) == (0.5, 0.2, 3)
    (own / "lost.yaml").write_text("BASE: nowhere.yaml\n")
    with pytest.raises(UserError, match=r"paper.configs.nowhere\.yaml"):
        read_recipe(own / "lost.yaml", RunConfig)


def test_differences_name_keys_and_both_values() -> None:
    other = merge(RunConfig, [], ["TRAIN.LR", "0.2", "SEED", "1"])
    assert differences(RunConfig().dump(), other.dump()) == ["SEED: 0 -> 1", "TRAIN.LR: 0.1 -> 0.2"]


def test_what_is_dumped_reads_back_the_same() -> None:
    config = merge(
        RunConfig, [], ["DATA.NAME", "cifar10", "DATA.MEAN", "(0.1, 0.2, 0.3)", "TRAIN.MILESTONES", "[3, 5]"]
    )
    assert merge(RunConfig, [config.dump()]) == config


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"a: [", b"only words"])
def test_damaged_settings_of_a_run_are_told_in_one_sentence(tmp_path, content):
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"config\.yaml holds no settings.*: if it is damaged, remove"):
        read_settings(path)


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ({1: 2}, "unknown configuration key 1"),
        ({"TRAIN": {True: 1}}, r"unknown configuration key TRAIN\.True"),
        ({"TRAIN.LR": 1}, r"in a file, TRAIN\.LR is written in its section: {TRAIN: \.\.\.}"),
        ({"TRAIN": 3}, r"TRAIN is a section: set one of TRAIN\.EPOCHS"),
        ({"TRAIN": None}, "TRAIN is a section"),
        ({"TRAIN": [1]}, "TRAIN is a section"),
        ({"TRAIN": {"LR": {"A": 1}}}, r"TRAIN\.LR is one setting, not a section"),
        ({"TITLE": {"A": 1}}, "TITLE is one setting, not a section"),
        ({"TRAIN": {"LR": date(2020, 1, 1)}}, r"TRAIN\.LR with value <class 'datetime\.date'> is not a valid type"),
    ],
)
def test_odd_keys_and_values_in_a_file_are_told_in_one_sentence(layer: dict, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        merge(RunConfig, [layer])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        (["TRAIN.MILESTONES", "[" * 5000 + "]" * 5000], r"TRAIN\.MILESTONES: .*\(given: "),
        (["TRAIN.LR", "-" * 50_000 + "1"], r"TRAIN\.LR"),
        (["TRAIN.LR", "(" * 3000], r"TRAIN\.LR"),
        (["TRAIN.MILESTONES", "[1, " * 40 + "]" * 40], r"TRAIN\.MILESTONES"),
        (["TITLE", "{1: 2}"], "TITLE is one setting|TITLE cannot be set to"),
        (["TITLE", "x" * 200_000], "200000 characters is too long"),
        (["TRAIN.LR.X", "1"], r"TRAIN\.LR is one setting, not a section"),
        (["PIPELINE.A", "1"], "PIPELINE is one setting"),
        (["TRAIN..LR", "1"], r"unknown configuration key TRAIN\.\.LR"),
        (["", "1"], "unknown configuration key"),
        ([f"{'A.' * 3000}A", "1"], "unknown configuration key A"),
        (["TRAIN.\x1b[31mLR", "1"], r"unknown configuration key TRAIN\.\\x1b\[31mLR"),
    ],
    ids=lambda value: value[0][:20] if isinstance(value, list) else None,
)
def test_hostile_pairs_are_told_in_one_short_sentence(pairs: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        merge(RunConfig, [], pairs)
    assert len(str(error.value)) < 300 and "\n" not in str(error.value)


def test_text_in_a_file_stays_the_text_that_it_is() -> None:
    for text in ("1", "None", "[a]", "'quoted'", "a\\nb", "(1, 2)"):
        assert merge(RunConfig, [{"TITLE": text}]).title == text


@pytest.mark.parametrize("text", ["[red]a[/red]", "[a] of [b]", "[", "[[[[" * 50])
def test_a_text_may_begin_as_a_list_does(text: str) -> None:
    assert merge(RunConfig, [], ["TITLE", text]).title == text


def test_a_whole_number_takes_the_place_of_a_fraction_and_back() -> None:
    layers = [{"TRAIN": {"LR": 1, "CLAMP": 1}}, {"TRAIN": {"LR": 0.5}}]
    config = merge(RunConfig, layers, ["TRAIN.LR", "2", "TRAIN.CLAMP", "0.5"])
    assert (config.train.lr, config.train.clamp) == (2.0, 0.5)


def test_a_recipe_is_never_run_as_a_program(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    (tmp_path / "base.py").write_text(f"open({str(trap)!r}, 'w')\ncfg = {{}}\n")
    (tmp_path / "own.yaml").write_text("BASE: base.py\n")
    with pytest.raises(UserError, match=r"base\.py"):
        read_recipe(tmp_path / "own.yaml", RunConfig)
    assert not trap.exists()


@pytest.mark.parametrize("base", ["own.yaml", "other.yaml", "../own.yaml", "[own.yaml]", "3"])
def test_a_base_is_another_file_of_the_folder(tmp_path: Path, base: str) -> None:
    (tmp_path / "own.yaml").write_text(f"BASE: {base}\n")
    (tmp_path / "other.yaml").write_text("BASE: own.yaml\n")
    with pytest.raises(UserError, match=r"based on itself|in the same or the shared folder"):
        read_recipe(tmp_path / "own.yaml", RunConfig)


@pytest.mark.parametrize(
    "text", [LAUGHS, "TRAIN: &a {LR: *a}", "TITLE: " + "[" * 5000], ids=["laughs", "itself", "deep"]
)
@pytest.mark.parametrize("read", [read_settings, lambda path: read_recipe(path, RunConfig)], ids=["run", "recipe"])
def test_settings_that_grow_without_end_are_refused_at_once(tmp_path: Path, text: str, read) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    began = time.monotonic()
    with pytest.raises(UserError, match=r"config\.yaml"):
        read(path)
    assert time.monotonic() - began < 2
