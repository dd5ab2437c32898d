"""Triton's C interface (https://github.com/triton-inference-server/core, `tritonserver.h`).

Functions and constants are those of API version 1; later minor versions only add to it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import grpc
from cffi import FFI

__all__ = [
    "CPU",
    "DATATYPES",
    "EXPLICIT",
    "FINAL",
    "STRING",
    "TritonFailure",
    "TritonLibrary",
]

EXPLICIT: Final = 2
"""TRITONSERVER_MODEL_CONTROL_EXPLICIT"""
CPU: Final = 0
"""TRITONSERVER_MEMORY_CPU"""
STRING: Final = 0
"""TRITONSERVER_PARAMETER_STRING"""
FINAL: Final = 1
"""TRITONSERVER_RESPONSE_COMPLETE_FINAL"""
DATATYPES: Final = (
    *("", "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"),
    *("FP16", "FP32", "FP64", "BYTES", "BF16"),
)
"""Names of TRITONSERVER_DataType by its numbers."""
_API_MAJOR: Final = 1
_CODES: Final = (
    *(grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.NOT_FOUND),
    *(grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNAVAILABLE),
    *(grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.ALREADY_EXISTS, grpc.StatusCode.CANCELLED),
)
"""Of TRITONSERVER_Error_Code by its numbers, as Triton's own gRPC door tells them."""

_DECLARATIONS: Final = """
void* malloc(size_t);
void free(void*);

typedef struct TRITONSERVER_Error TRITONSERVER_Error;
typedef struct TRITONSERVER_InferenceRequest TRITONSERVER_InferenceRequest;
typedef struct TRITONSERVER_InferenceResponse TRITONSERVER_InferenceResponse;
typedef struct TRITONSERVER_Message TRITONSERVER_Message;
typedef struct TRITONSERVER_Parameter TRITONSERVER_Parameter;
typedef struct TRITONSERVER_ResponseAllocator TRITONSERVER_ResponseAllocator;
typedef struct TRITONSERVER_Server TRITONSERVER_Server;
typedef struct TRITONSERVER_ServerOptions TRITONSERVER_ServerOptions;

TRITONSERVER_Error* TRITONSERVER_ApiVersion(uint32_t*, uint32_t*);
int TRITONSERVER_ErrorCode(TRITONSERVER_Error*);
const char* TRITONSERVER_ErrorMessage(TRITONSERVER_Error*);
void TRITONSERVER_ErrorDelete(TRITONSERVER_Error*);

TRITONSERVER_Error* TRITONSERVER_ServerOptionsNew(TRITONSERVER_ServerOptions**);
TRITONSERVER_Error* TRITONSERVER_ServerOptionsDelete(TRITONSERVER_ServerOptions*);
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetModelRepositoryPath(
    TRITONSERVER_ServerOptions*, const char*);
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetModelControlMode(TRITONSERVER_ServerOptions*, int);
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetBackendDirectory(
    TRITONSERVER_ServerOptions*, const char*);
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetBackendConfig(
    TRITONSERVER_ServerOptions*, const char*, const char*, const char*);
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetCacheDirectory(
    TRITONSERVER_ServerOptions*, const char*);
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetCacheConfig(
    TRITONSERVER_ServerOptions*, const char*, const char*);
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetStrictReadiness(TRITONSERVER_ServerOptions*, bool);
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetExitOnError(TRITONSERVER_ServerOptions*, bool);
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetExitTimeout(
    TRITONSERVER_ServerOptions*, unsigned int);
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetStrictModelConfig(
    TRITONSERVER_ServerOptions*, bool);
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetModelLoadThreadCount(
    TRITONSERVER_ServerOptions*, unsigned int);
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetModelLoadRetryCount(
    TRITONSERVER_ServerOptions*, unsigned int);
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetModelNamespacing(
    TRITONSERVER_ServerOptions*, bool);
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetEnablePeerAccess(
    TRITONSERVER_ServerOptions*, bool);
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetMetrics(TRITONSERVER_ServerOptions*, bool);
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetLogInfo(TRITONSERVER_ServerOptions*, bool);
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetLogFormat(TRITONSERVER_ServerOptions*, int);

TRITONSERVER_Error* TRITONSERVER_ServerNew(TRITONSERVER_Server**, TRITONSERVER_ServerOptions*);
TRITONSERVER_Error* TRITONSERVER_ServerDelete(TRITONSERVER_Server*);
TRITONSERVER_Error* TRITONSERVER_ServerLoadModelWithParameters(
    TRITONSERVER_Server*, const char*, const TRITONSERVER_Parameter**, uint64_t);
TRITONSERVER_Error* TRITONSERVER_ServerUnloadModel(TRITONSERVER_Server*, const char*);
TRITONSERVER_Error* TRITONSERVER_ServerModelStatistics(
    TRITONSERVER_Server*, const char*, int64_t, TRITONSERVER_Message**);
TRITONSERVER_Parameter* TRITONSERVER_ParameterNew(const char*, int, const void*);
TRITONSERVER_Parameter* TRITONSERVER_ParameterBytesNew(const char*, const void*, uint64_t);
void TRITONSERVER_ParameterDelete(TRITONSERVER_Parameter*);
TRITONSERVER_Error* TRITONSERVER_MessageSerializeToJson(
    TRITONSERVER_Message*, const char**, size_t*);
TRITONSERVER_Error* TRITONSERVER_MessageDelete(TRITONSERVER_Message*);

typedef TRITONSERVER_Error* (*allocate_t)(
    TRITONSERVER_ResponseAllocator*, const char*, size_t, int, int64_t, void*,
    void**, void**, int*, int64_t*);
typedef TRITONSERVER_Error* (*free_t)(
    TRITONSERVER_ResponseAllocator*, void*, void*, size_t, int, int64_t);
typedef TRITONSERVER_Error* (*start_t)(TRITONSERVER_ResponseAllocator*, void*);
typedef void (*response_t)(TRITONSERVER_InferenceResponse*, uint32_t, void*);
typedef void (*release_t)(TRITONSERVER_InferenceRequest*, uint32_t, void*);
TRITONSERVER_Error* TRITONSERVER_ResponseAllocatorNew(
    TRITONSERVER_ResponseAllocator**, allocate_t, free_t, start_t);

TRITONSERVER_Error* TRITONSERVER_InferenceRequestNew(
    TRITONSERVER_InferenceRequest**, TRITONSERVER_Server*, const char*, int64_t);
TRITONSERVER_Error* TRITONSERVER_InferenceRequestDelete(TRITONSERVER_InferenceRequest*);
TRITONSERVER_Error* TRITONSERVER_InferenceRequestCancel(TRITONSERVER_InferenceRequest*);
TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetId(
    TRITONSERVER_InferenceRequest*, const char*);
TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetFlags(TRITONSERVER_InferenceRequest*, uint32_t);
TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetCorrelationId(
    TRITONSERVER_InferenceRequest*, uint64_t);
TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetCorrelationIdString(
    TRITONSERVER_InferenceRequest*, const char*);
TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetPriorityUInt64(
    TRITONSERVER_InferenceRequest*, uint64_t);
TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetTimeoutMicroseconds(
    TRITONSERVER_InferenceRequest*, uint64_t);
TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetStringParameter(
    TRITONSERVER_InferenceRequest*, const char*, const char*);
TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetIntParameter(
    TRITONSERVER_InferenceRequest*, const char*, int64_t);
TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetBoolParameter(
    TRITONSERVER_InferenceRequest*, const char*, bool);
TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetDoubleParameter(
    TRITONSERVER_InferenceRequest*, const char*, double);
TRITONSERVER_Error* TRITONSERVER_InferenceRequestAddInput(
    TRITONSERVER_InferenceRequest*, const char*, int, const int64_t*, uint64_t);
TRITONSERVER_Error* TRITONSERVER_InferenceRequestAppendInputData(
    TRITONSERVER_InferenceRequest*, const char*, const void*, size_t, int, int64_t);
TRITONSERVER_Error* TRITONSERVER_InferenceRequestAddRequestedOutput(
    TRITONSERVER_InferenceRequest*, const char*);
TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetReleaseCallback(
    TRITONSERVER_InferenceRequest*, release_t, void*);
TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetResponseCallback(
    TRITONSERVER_InferenceRequest*, TRITONSERVER_ResponseAllocator*, void*, response_t, void*);
TRITONSERVER_Error* TRITONSERVER_ServerInferAsync(
    TRITONSERVER_Server*, TRITONSERVER_InferenceRequest*, void*);

TRITONSERVER_Error* TRITONSERVER_InferenceResponseError(TRITONSERVER_InferenceResponse*);
TRITONSERVER_Error* TRITONSERVER_InferenceResponseModel(
    TRITONSERVER_InferenceResponse*, const char**, int64_t*);
TRITONSERVER_Error* TRITONSERVER_InferenceResponseOutputCount(
    TRITONSERVER_InferenceResponse*, uint32_t*);
TRITONSERVER_Error* TRITONSERVER_InferenceResponseOutput(
    TRITONSERVER_InferenceResponse*, uint32_t, const char**, int*, const int64_t**, uint64_t*,
    const void**, size_t*, int*, int64_t*, void**);
TRITONSERVER_Error* TRITONSERVER_InferenceResponseDelete(TRITONSERVER_InferenceResponse*);
"""


class TritonFailure(Exception):
    """A call of the interface that failed.

    Args:
        code: What its gRPC door would tell.
        details: In Triton's words.
    """

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.code = code
        self.details = details


class TritonLibrary:
    """Triton's library, loaded into this process, where it stays.

    Args:
        path: Of `libtritonserver`.

    Raises:
        OSError: It is not there, or cannot be loaded.
        TritonFailure: Its interface is of another major version.
    """

    def __init__(self, path: Path) -> None:
        self.ffi: Any = FFI()
        self.ffi.cdef(_DECLARATIONS)
        self.calls: Any = self.ffi.dlopen(str(path))
        """The interface's functions."""
        self.memory: Any = self.ffi.dlopen(None)
        """malloc and free."""
        self._check_version(path)

    def _check_version(self, path: Path) -> None:
        major, minor = self.ffi.new("uint32_t*"), self.ffi.new("uint32_t*")
        self.check(self.calls.TRITONSERVER_ApiVersion(major, minor))
        if major[0] != _API_MAJOR:
            raise TritonFailure(
                grpc.StatusCode.UNIMPLEMENTED,
                f"{path} has version {major[0]}.{minor[0]} of Triton's interface; "
                f"version {_API_MAJOR} is needed",
            )

    def declare(self, declarations: str) -> None:
        """Know more functions, also when they are known already."""
        self.ffi.cdef(declarations, override=True)

    def check(self, error: Any) -> None:
        """Raise what a call returned, unless it is nothing."""
        if error:
            failure = self.failure(error)
            self.calls.TRITONSERVER_ErrorDelete(error)
            raise failure

    def failure(self, error: Any) -> TritonFailure:
        """What an error of Triton says; it stays its owner's."""
        number = self.calls.TRITONSERVER_ErrorCode(error)
        code = _CODES[number] if 0 <= number < len(_CODES) else grpc.StatusCode.UNKNOWN
        return TritonFailure(code, self.text(self.calls.TRITONSERVER_ErrorMessage(error)))

    def text(self, characters: Any) -> str:
        """A C string."""
        return bytes(self.ffi.string(characters)).decode(errors="replace")
