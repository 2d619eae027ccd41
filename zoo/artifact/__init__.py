"""The artifact: config.json and model.safetensors, read strictly and written atomically; the schema of eval.json.

`folder.read_artifact`, `folder.write_artifact`, `folder.verify_artifact`, `config.Config`, `results.Evaluation`.

Imports: networks.
"""
