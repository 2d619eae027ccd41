"""Image sets: CIFAR archives, parquet, folders, .npz and named data sets, one image set class for all.

`open.open_images`, `images.ImageSet`, `datasets.identify`.

Imports: hub, artifact.
"""
