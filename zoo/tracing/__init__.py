"""PyTorch modules of users: traced, mapped onto a topology, and compared with themselves.

`source.checkpoint_of`, `module.read_module`. What a module computes is taken from its graph of
operations, not from the names of its parts.

Imports: conversion, pretrained, data, networks.
"""
