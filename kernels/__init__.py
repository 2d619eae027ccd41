"""Spiking kernels: what one spiking layer computes. Nothing here knows what a ResNet is."""
