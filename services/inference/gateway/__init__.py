"""The gateway: answers the Open Inference Protocol and logs every request before its reply."""
