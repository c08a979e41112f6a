"""Images and labels from files: one file a data set, loaders, transforms, shifts and corruptions."""
