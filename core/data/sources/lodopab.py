"""LoDoPaB-CT (Leuschner et al., 2021): low-dose tomography, as prepared pairs."""

from stillpoint.core.data.pair_files import PairFiles, pair_info

DATASET = PairFiles(pair_info("lodopab", "LoDoPaB-CT", 362))
