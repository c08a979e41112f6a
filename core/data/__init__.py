"""Images and labels from files: one file a data set (`sources`), loaders, transforms, shifts and corruptions."""

from stillpoint.core.config.catalogue import search

search(f"{__name__}.sources")
