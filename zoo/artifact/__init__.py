"""The artifact: config.json and model.safetensors, read strictly, written atomically.

And eval.json.

`folder.read_artifact`, `folder.write_artifact`, `folder.verify_artifact`, `config.Config`,
`results.Evaluation`.

Imports: networks.
"""
