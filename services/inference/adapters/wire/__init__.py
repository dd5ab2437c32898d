"""A lean gRPC client for one unary method on one trusted server: the gateway's way to Triton.

`grpc.aio` spends more processor time on a call than Triton does on a small model (see
`infra/adr/0020-gateway-data-path.md`). This client carries serialised messages over one HTTP/2
connection (RFC 9113) on asyncio, with what the gateway needs and nothing else: many calls at once,
flow control, deadlines, cancellation, status codes, plain text. Header compression is `hpack`'s.
"""
