"""Conversion methods, one file each: settings with defaults and bounds, and the build.

`zoo.conversion.registry` lists them. A method imports torch only when it builds.
"""
