"""Image sets: CIFAR archives, parquet, folders, shards, .npz, named data sets, all as one class.

`open.open_images`, `images.ImageSet`, `datasets.identify`.

Imports: hub, artifact.
"""
