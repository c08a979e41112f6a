"""Images and labels from files: data sets (one file each in `sources`), loaders, transforms, shifts and corruptions."""

from stillpoint.core.config.catalogue import search

search(f"{__name__}.sources")
