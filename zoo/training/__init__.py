"""Training an ANN that converts well, from scratch or from an artifact.

`run.train` trains in a folder, `trainer.Trainer` takes the steps of a `trainer.Plan`.

Imports: models, conversion, data.
"""
