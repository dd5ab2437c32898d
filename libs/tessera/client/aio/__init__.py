"""The asynchronous client. `tessera.client.sync` is made from it."""
