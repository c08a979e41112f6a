"""Multiply-accumulates: counted on our layers, and by formula for the authors' way to compute the packets."""

import pytest

from stillpoint.pipelines.wavelet_twins.catalogue import CLASSIFIERS
from stillpoint.pipelines.wavelet_twins.cost import cost

#: stems of one photograph of 224x224 as measured on the authors' implementation, in millions
MEASURED = {"AwyI": 63.3, "AwyI_mod": 63.3, "RwyI": 92.6, "RwyI_mod": 92.6, "Rzh3wyI": 94.4, "Rzh3wyI_mod": 93.7}


@pytest.mark.parametrize("name", MEASURED)
def test_stage_by_stage_a_stem_costs_what_the_authors_does(name: str) -> None:
    found = cost(*CLASSIFIERS[name])
    assert found.stem_by_stages is not None
    assert found.stem_by_stages / 1e6 == pytest.approx(MEASURED[name], abs=0.06)


def test_a_modulus_at_its_own_stride_costs_less_than_the_real_parts_and_a_plain_stem_has_no_stages() -> None:
    real, modulus = (cost(*CLASSIFIERS[name]) for name in ("AwyI", "AwyI_mod"))
    assert modulus.stem_macs < real.stem_macs and modulus.stem_saved < real.stem_saved
    assert cost(*CLASSIFIERS["AI"]).stem_by_stages is None
