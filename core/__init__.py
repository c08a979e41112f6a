"""Images, networks and shifts, and no paper. Nothing here imports torch until it is used.

Twelve rooms; each imports from those before it alone, inside functions too (tests/test_house.py holds the order):
base, config, data, kernels, layers, backbones, surgery, metrics, runs, training, evaluation, reporting.
"""

# the catalogue lies before the data sets that it names: here both are there
from stillpoint.core import data as data
