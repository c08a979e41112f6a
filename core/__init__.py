"""Images, networks and shifts, and no paper. Nothing here imports torch until it is used.

Twelve subpackages; each imports only from those before it, inside functions too (tests/test_house.py keeps the order):
base, config, data, kernels, layers, backbones, surgery, metrics, runs, training, evaluation, reporting.
"""

# registers the data sets: the catalogue in config may not import them
from stillpoint.core import data as data
