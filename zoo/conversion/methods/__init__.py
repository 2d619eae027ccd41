"""Conversion methods, one file each: settings with defaults and bounds, and how the network is built.

`zoo.conversion.registry` lists them. A method imports torch only when it builds.
"""
