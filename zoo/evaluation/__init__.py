"""Measuring an artifact: accuracy by timestep, firing rates, synaptic operations, energy.

`evaluate.evaluate`; `energy.modelled_energy`.

Imports: data, pretrained, artifact, networks.
"""
