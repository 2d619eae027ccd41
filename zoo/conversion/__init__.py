"""From an ANN to a spiking network: thresholds, int8 rounding, calibration.

`convert.convert`; a method is a file of `methods/`, listed in `registry.METHODS`.

Imports: data, pretrained, artifact, networks.
"""
