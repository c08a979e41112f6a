"""Names: the 35 classifiers, all configurations, and what is said about unknown ones."""

import pytest

from stillpoint.pipelines.wavelet_twins.catalogue import ARCHITECTURES, CLASSIFIERS, DEEPER, Form, configs, form, models

TABLE = {
    "AI": ("AlexNet", "Std"),
    "AwyI_mod": ("DtCwptAlexNet", "Ft32Y_mod"),
    "Azh3wyI": ("DtCwptZhangAlexNet", "Ft32YBf3"),
    "RwyI": ("dtcwpt_resnet34", "Ft40YEx"),
    "Rzh3I": ("zhang_resnet34", "Bf3"),
    "Rzh3wyI_abl": ("dtcwpt_zhang_resnet34", "Ft40YBf3Ex_abl2"),
    "Rzo3wyI_mod": ("dtcwpt_zou_resnet34", "Ft40YBf3Ex_mod"),
    "R18zo3C": ("zou_resnet18", "Bf3"),
    "R34zh3wyC_mod": ("dtcwpt_zhang_resnet34", "Ft40YBf3Ex_mod"),
}


def test_there_are_the_35_classifiers_of_the_table() -> None:
    families = [sum(name.startswith(prefix) for name in CLASSIFIERS) for prefix in ("A", "R18", "R34")]
    assert families == [6, 9, 9]
    assert len(CLASSIFIERS) == 35
    assert {name: CLASSIFIERS[name] for name in TABLE} == TABLE


def test_every_entry_names_an_architecture_and_one_of_its_configurations() -> None:
    entries = models()
    assert set(CLASSIFIERS) | set(DEEPER) | set(ARCHITECTURES) == set(entries)
    for name, (arch, config) in (CLASSIFIERS | DEEPER).items():
        assert config in configs(arch)
        own = dict(entries[name].settings)
        # the authors trained their four AlexNets with wavelets under a penalty, and nothing else
        assert own.pop("PENALTY", None) == (
            [0.0, 0.0041, 0.00032] if arch.endswith("AlexNet") and "Dt" in arch else None
        )
        assert own == {"ARCH": arch, "CONFIG": config}
        assert entries[name].source
    assert entries["AI"].datasets == ("imagenet",)
    assert entries["R18C"].datasets == ()


def test_configurations_of_an_architecture() -> None:
    assert configs("resnet34") == ["Std", *(f"Bf{k}" for k in range(2, 8)), "Frozen", "StdK2", "Bf3K2", "Bf5K2"]
    real = ["Ft40", "Ft40Y", "Ft40YBf3", "Ft40Ex", "Ft40YEx", *(f"Ft40YBf{k}Ex" for k in range(2, 8))]
    twins = [*real, *(f"{name}_mod" for name in real)]
    assert configs("dtcwpt_resnet34") == [*twins, "Ft40YBf3Ex_abl1", "Ft40YBf3Ex_abl1ada"]
    assert configs("dtcwpt_zhang_resnet34") == [*twins, "Ft40YBf3Ex_abl2"]
    assert "Ft32YBf7_mod" in configs("DtCwptAlexNet")
    # a predicted filter has a centre
    assert not [name for name in configs("dtcwpt_zou_resnet18") if "Bf2" in name or "Bf4" in name or "Bf6" in name]


@pytest.mark.parametrize(
    ("arch", "config", "want"),
    [
        ("resnet18", "", Form()),
        ("zhang_resnet18", "Bf5K2", Form(blur=5, small_pool=True)),
        ("AlexNet", "Frozen", Form(frozen=True)),
        ("dtcwpt_resnet18", "Ft40", Form()),
        ("dtcwpt_resnet18", "Ft40Ex_mod", Form(excluding=True, modulus=True)),
        ("dtcwpt_zhang_resnet18", "Ft40YBf7Ex", Form(blur=7, luminance=True, excluding=True)),
        (
            "dtcwpt_resnet18",
            "Ft40YBf3Ex_abl1ada",
            Form(blur=3, luminance=True, excluding=True, ablation="abl1ada"),
        ),
    ],
)
def test_a_configuration_is_read_from_its_name(arch: str, config: str, want: Form) -> None:
    assert form(arch, config) == want


@pytest.mark.parametrize(
    ("arch", "config", "sentence"),
    [
        ("dtcwpt_resnet19", "Ft40", "unknown architecture 'dtcwpt_resnet19'; nearest: dtcwpt_resnet18"),
        ("dtcwpt_zhang_resnet34", "Ft40YBf3Ex_abl", "no configuration 'Ft40YBf3Ex_abl'; nearest: Ft40YBf3Ex_abl2"),
        ("dtcwpt_resnet34", "", "dtcwpt_resnet34 has no default configuration: choose from Ft40, Ft40Y"),
        ("zou_resnet18", "Bf4", "zou_resnet18 has no configuration 'Bf4'"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(arch: str, config: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        form(arch, config)


@pytest.mark.parametrize("config", ["Str4", "Ks20"])
def test_a_configuration_that_is_only_a_name_is_refused_with_that_reason(config: str) -> None:
    for arch in ("AlexNet", "ZhangAlexNet"):
        with pytest.raises(ValueError, match=f"{arch} {config} is only a name.*choose from Std, Bf2"):
            form(arch, config)
    # of other architectures it is no name at all
    with pytest.raises(ValueError, match=f"has no configuration '{config}'"):
        form("resnet18", config)
