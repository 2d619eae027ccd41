"""The command line: one file a command or group; arguments, messages and tables.

`cli.py` puts them together.

Imports: everything; nothing imports it.
"""
