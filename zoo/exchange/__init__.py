"""Artifacts in the formats of other frameworks.

`nir.export_nir`.

Imports: artifact, networks.
"""
