"""A Hugging Face hub: checked downloads, and artifacts in the cache of its client.

`cache.fetch_artifact`, `cache.snapshots`, `download.fetch_file`, `client.search_hub`.

Imports: artifact.
"""
