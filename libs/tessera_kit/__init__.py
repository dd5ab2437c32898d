"""What the Tessera services stand on: configuration, errors, rpc, bus, stores and telemetry.

It imports no service.
"""
