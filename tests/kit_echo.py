"""A contract of the tests: a service with all four kinds of call, a message with every rule."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import grpc
import grpc_tools
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    duration_pb2,
    message_factory,
    struct_pb2,
    timestamp_pb2,
)
from google.protobuf.message import Message

from tessera.type.v1 import rules_pb2
from tessera_kit.rpc.server import Binding

# What the contract imports must be in the pool before it.
IMPORTS = (duration_pb2, rules_pb2, struct_pb2, timestamp_pb2)
LIBRARY = Path(__file__).parents[1] / "protos"
SERVICE = "tessera.testing.v1.EchoService"
PROTO = """
syntax = "proto3";
package tessera.testing.v1;
import "google/protobuf/duration.proto";
import "google/protobuf/struct.proto";
import "google/protobuf/timestamp.proto";
import "tessera/type/v1/rules.proto";

enum Color { COLOR_UNSPECIFIED = 0; COLOR_RED = 1; COLOR_BLUE = 5; }

message Plain { string text = 1; Plain child = 2; }

message Echo {
  string text = 1 [(tessera.type.v1.field) = {required: true, max_length: 100}];
  string command = 2;
  int64 number = 3;
}

message Tree {
  string label = 1 [(tessera.type.v1.field) = {required: true, name: true}];
  repeated Tree children = 2;
}

message Rules {
  string required = 1 [(tessera.type.v1.field) = {required: true}];
  string lengths = 2 [(tessera.type.v1.field) = {min_length: 2, max_length: 5}];
  string pattern = 3 [(tessera.type.v1.field) = {pattern: "^[a-z]+$"}];
  string name = 4 [(tessera.type.v1.field) = {name: true}];
  string full_name = 5 [(tessera.type.v1.field) = {full_name_parts: 3}];
  bytes data = 6 [(tessera.type.v1.field) = {min_bytes: 1, max_bytes: 4}];
  double closed = 7 [(tessera.type.v1.field) = {gte: -1, lte: 1}];
  double open = 8 [(tessera.type.v1.field) = {gt: -1, lt: 1}];
  double finite = 9 [(tessera.type.v1.field) = {finite: true}];
  int64 count = 10 [(tessera.type.v1.field) = {gte: 0}];
  Color color = 11 [(tessera.type.v1.field) = {defined_only: true, not_unspecified: true}];
  repeated string tags = 12 [(tessera.type.v1.field) = {
    min_items: 1, max_items: 3, unique: true, max_length: 4
  }];
  repeated double points = 13 [(tessera.type.v1.field) = {finite: true}];
  map<string, string> labels = 14 [(tessera.type.v1.field) = {
    map_max_pairs: 2, map_key_max_length: 3, map_value_max_length: 4
  }];
  map<string, double> weights = 15 [(tessera.type.v1.field) = {finite: true}];
  map<string, Tree> trees = 16;
  optional string present = 17 [(tessera.type.v1.field) = {min_length: 3}];
  optional int32 must = 18 [(tessera.type.v1.field) = {required: true}];
  Tree tree = 19 [(tessera.type.v1.field) = {required: true}];
  repeated Tree forest = 20 [(tessera.type.v1.field) = {max_items: 2}];
  google.protobuf.Timestamp time = 21;
  google.protobuf.Duration span = 22;
  google.protobuf.Struct struct = 23;
  Plain plain = 24;
  string wide = 25 [(tessera.type.v1.field) = {max_bytes: 4}];
}

service EchoService {
  rpc Unary(Echo) returns (Echo);
  rpc ServerStream(Echo) returns (stream Echo);
  rpc ClientStream(stream Echo) returns (Echo);
  rpc Bidirectional(stream Echo) returns (stream Echo);
}
"""
KINDS = ("Unary", "ServerStream", "ClientStream", "Bidirectional")


@cache
def _load() -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "echo.proto"
        source.write_text(PROTO, "utf-8")
        image = Path(folder) / "image"
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{folder}", f"-I{LIBRARY}"]
        command += [f"-I{Path(grpc_tools.__file__).parent / '_proto'}"]
        subprocess.run([*command, f"--descriptor_set_out={image}", str(source)], check=True)
        files = descriptor_pb2.FileDescriptorSet.FromString(image.read_bytes())
    for file in files.file:
        descriptor_pool.Default().Add(file)


def message(name: str) -> type[Message]:
    """The class of one of the contract's messages."""
    _load()
    descriptor = descriptor_pool.Default().FindMessageTypeByName(f"tessera.testing.v1.{name}")
    return message_factory.GetMessageClass(descriptor)


def binding(servicer: Any) -> Binding:
    """The service, as its generated code would add it."""
    echo = message("Echo")
    makers = {
        "Unary": grpc.unary_unary_rpc_method_handler,
        "ServerStream": grpc.unary_stream_rpc_method_handler,
        "ClientStream": grpc.stream_unary_rpc_method_handler,
        "Bidirectional": grpc.stream_stream_rpc_method_handler,
    }

    def add(servicer: Any, server: Any) -> None:
        handlers = {
            name: make(
                getattr(servicer, name),
                request_deserializer=echo.FromString,
                response_serializer=echo.SerializeToString,
            )
            for name, make in makers.items()
            if hasattr(servicer, name)
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        server.add_registered_method_handlers(SERVICE, handlers)

    return Binding(add, servicer, SERVICE)


class Stub:
    """The service, as its generated stub would call it."""

    def __init__(self, channel: grpc.aio.Channel, *, raw: bool = False) -> None:
        echo = message("Echo")
        serializers: dict[str, Any] = (
            {}
            if raw
            else {
                "request_serializer": echo.SerializeToString,
                "response_deserializer": echo.FromString,
            }
        )
        path = f"/{SERVICE}/"
        self.unary: Any = channel.unary_unary(path + "Unary", **serializers)
        self.server_stream: Any = channel.unary_stream(path + "ServerStream", **serializers)
        self.client_stream: Any = channel.stream_unary(path + "ClientStream", **serializers)
        self.bidirectional: Any = channel.stream_stream(path + "Bidirectional", **serializers)

    async def call(self, kind: str, requests: list[Any], **named: Any) -> list[Message]:
        """Make one call of any kind and return all its responses."""

        async def stream() -> Any:
            for request in requests:
                yield request

        if kind == "Unary":
            return [await self.unary(requests[0], **named)]
        if kind == "ServerStream":
            return [response async for response in self.server_stream(requests[0], **named)]
        if kind == "ClientStream":
            return [await self.client_stream(stream(), **named)]
        return [response async for response in self.bidirectional(stream(), **named)]
