"""The gRPC doors: messages to values, a handler, values to messages."""
