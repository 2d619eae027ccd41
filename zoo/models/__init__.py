"""The models that ship, the recipes of those that are made here, and what a name means.

`registry.resolve`, `registry.entry`, `recipes.RECIPES`.

Imports: conversion, hub, artifact.
"""
