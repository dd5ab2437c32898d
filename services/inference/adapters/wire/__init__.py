"""gRPC on asyncio, leaner than `grpc.aio`: the gateway's door and its way to Triton.

`grpc.aio` spends more processor time on a call than Triton does on a small model (see
`infra/adr/0020-gateway-data-path.md`). Both halves speak HTTP/2 (RFC 9113) and share `frames`;
header compression is `hpack`'s.

`connection` is the client: one unary method of one trusted server, many calls at once on one
connection. `door` is the server, for strangers: each connection (`caller`) is the half that takes
requests (`requests`) on the half that sends responses (`responses`), within `limits`; `sides` is
what door and connections ask of each other.
"""
