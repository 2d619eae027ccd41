"""Training an ANN that converts well, from scratch or from an artifact.

`run.train`, `trainer.Trainer`, `trainer.Plan`.

Imports: models, conversion, data.
"""
