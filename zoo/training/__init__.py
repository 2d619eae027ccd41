"""Training an ANN that converts well, from scratch or from an artifact.

`run.train` trains in a folder, `tune.tune` an artifact through time; `trainer.Trainer` and
`tuner.Tuner` are the `steps.Steps` that they take.

Imports: models, conversion, data.
"""
