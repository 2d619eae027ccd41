"""Publishing a model, and serving a folder of models as a hub.

`publish.publish`, `mirror.mirror`, `serve.serve`.

Imports: render, models, hub.
"""
