"""Image sets: CIFAR archives, parquet, folders, .npz and named data sets, all as one class.

`open.open_images`, `images.ImageSet`, `datasets.identify`.

Imports: hub, artifact.
"""
