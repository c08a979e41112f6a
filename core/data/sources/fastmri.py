"""fastMRI (Zbontar et al., arXiv 1811.08839): knees from a quarter of the measurements, as prepared pairs."""

from stillpoint.core.data.pair_files import PairFiles, pair_info

DATASET = PairFiles(pair_info("fastmri", "fastMRI single-coil knee", 320))
