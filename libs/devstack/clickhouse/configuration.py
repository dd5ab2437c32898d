"""The engine's configuration: caches and memory bounded for a small machine."""

from __future__ import annotations

import os
from pathlib import Path
from xml.sax.saxutils import escape

_MIB = 2**20
_SERVER = {
    "display_name": "tessera",
    "mark_cache_size": 64 * _MIB,
    "primary_index_cache_size": 32 * _MIB,
    "index_mark_cache_size": 16 * _MIB,
    "unique_key_index_cache_size_bytes": 16 * _MIB,
    "vector_similarity_index_cache_size": 128 * _MIB,
    "text_index_tokens_cache_size": 16 * _MIB,
    "text_index_header_cache_size": 16 * _MIB,
    "text_index_postings_cache_size": 32 * _MIB,
    "parquet_metadata_cache_size": 32 * _MIB,
    "iceberg_metadata_files_cache_size": 16 * _MIB,
    "query_condition_cache_size": 16 * _MIB,
    "compiled_expression_cache_size": 32 * _MIB,
    "max_thread_pool_size": 256,
    "max_thread_pool_free_size": 16,
    # The control group counts its other processes too: where the whole stack is in one, as in a
    # container or a unit of systemd, the engine took their memory for its own and refused queries.
    "memory_worker_use_cgroup": 0,
}


def write_configuration(directory: Path, memory_bytes: int) -> Path:
    """Writes the configuration of an engine that may use `memory_bytes`; returns its path."""
    directory.mkdir(parents=True, exist_ok=True)
    spill = directory / "spill"
    spill.mkdir(exist_ok=True)
    values = {**_SERVER, "max_server_memory_usage": memory_bytes, "tmp_path": f"{spill}{os.sep}"}
    lines = [f"  <{name}>{escape(str(value))}</{name}>" for name, value in values.items()]
    path = directory / "config.xml"
    path.write_text("\n".join(["<clickhouse>", *lines, "</clickhouse>", ""]))
    return path


def base_settings(memory_bytes: int, cores: int) -> dict[str, str]:
    """Settings of every query that does not set them itself.

    Large sorts and groupings go to disk.
    """
    per_query = memory_bytes * 3 // 4
    return {
        # chDB starts as a local tool; these make it behave as the server does.
        "implicit_select": "0",
        "allow_introspection_functions": "0",
        "storage_file_read_method": "pread",
        "max_threads": str(max(2, cores)),
        "max_memory_usage": str(per_query),
        "max_bytes_before_external_group_by": str(per_query // 2),
        "max_bytes_before_external_sort": str(per_query // 2),
        "max_execution_time": "600",
    }
