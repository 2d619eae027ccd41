"""From an ANN to a spiking network: thresholds, int8 rounding, calibration.

`convert.convert`, `settings.DEFAULTS`.

Imports: data, pretrained, artifact, networks.
"""
