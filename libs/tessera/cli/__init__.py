"""The `tessera` command.

One module per group of verbs, each with `register(app)`; `tessera.cli.main` lists them and imports
only the one that is asked for.
"""
