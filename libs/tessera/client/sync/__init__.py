"""The synchronous client; its parts are made from `tessera.client.aio`."""
