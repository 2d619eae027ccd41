"""Pretrained ANNs: checkpoint files read without executing anything, and hub checkpoints by name.

`sources.read_source`, `checkpoint.read_checkpoint`, `checkpoint.Checkpoint`.

Imports: hub, networks.
"""
