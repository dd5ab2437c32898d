"""What holds for all inputs: shares, the spool, tensors, and the guard before the runtime."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from functools import reduce
from math import gcd
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from services.inference.capture.frames import frame_header, split_frames
from services.inference.capture.reader import SpoolReader
from services.inference.capture.spool import Spool
from services.inference.domain.datatypes import DATATYPES
from services.inference.domain.fields import split, text_field
from services.inference.domain.signature import parse_manifest
from services.inference.domain.splitter import TrafficSplitter, cycle
from services.inference.domain.sticky import StickyChooser
from services.inference.errors import InvalidArchive, InvalidInference, SpoolFull
from services.inference.gateway.validation import RequestRules
from services.inference.runtime.archive import rebuild
from services.inference.runtime.graph import clean_program
from services.inference.sink.tensors import UndecodableBody, decode_request

RULES = RequestRules(
    parse_manifest(
        json.dumps(
            {
                "flavor": "torchscript",
                "file": "model.pt",
                "inputs": [
                    {"name": "x", "datatype": "FP32", "shape": [-1, 3]},
                    {"name": "c", "datatype": "BYTES", "shape": [-1, 1], "vocabulary": ["a"]},
                ],
                "outputs": [{"name": "p", "datatype": "FP32", "shape": [-1, 1]}],
            }
        ).encode()
    ),
    max_rows=64,
)

weights = st.lists(st.integers(0, 100), min_size=1, max_size=10).filter(any)


@given(weights)
def test_every_run_of_one_cycle_has_exact_shares(shares: list[int]) -> None:
    divisor = reduce(gcd, shares)
    length = sum(shares) // divisor
    splitter = TrafficSplitter(shares)
    for _ in range(3):
        seen = Counter(splitter.next() for _ in range(length))
        assert [seen[index] * divisor for index in range(len(shares))] == shares


@given(weights)
def test_no_entity_is_ever_more_than_one_turn_away_from_its_share(shares: list[int]) -> None:
    order, total = cycle(shares), sum(shares)
    seen: Counter[int] = Counter()
    for step, index in enumerate(order, 1):
        seen[index] += 1
        for other, share in enumerate(shares):
            assert abs(seen[other] - step * share / total) <= 1 + len(shares) / 2


@given(st.lists(st.binary(min_size=1, max_size=200), max_size=20), st.integers(0, 3000))
def test_a_cut_log_gives_a_prefix_of_its_records(records: list[bytes], cut: int) -> None:
    log = b"".join(frame_header(record) + record for record in records)
    found, end = split_frames(log[:cut], 1000)
    assert found == records[: len(found)]
    assert end <= min(cut, len(log))
    if cut >= len(log):
        assert found == records


@given(
    st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=20),
    st.integers(min_value=0),
    st.integers(1, 255),
)
def test_a_flipped_byte_never_becomes_a_record(records: list[bytes], place: int, flip: int) -> None:
    log = bytearray(b"".join(frame_header(record) + record for record in records))
    log[place % len(log)] ^= flip
    found, _ = split_frames(bytes(log), 1000)
    assert found == records[: len(found)]


def _kill_amid_append(spool: Spool, written: int) -> None:
    """End a gateway that has written so many bytes of a record's frame, but not all of it."""
    whole = os.pwritev

    def torn(file: int, parts: Sequence[bytes], offset: int) -> int:
        return whole(file, (b"".join(parts)[:written],), offset) if written else 0

    with pytest.MonkeyPatch.context() as killed:
        killed.setattr(os, "pwritev", torn)
        killed.setattr(os, "ftruncate", lambda *_: None)
        with suppress(SpoolFull):
            spool.append(bytes(range(1, 61)))
        spool.close()


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.binary(min_size=1, max_size=60).map(lambda data: ("append", data)),
            st.integers(1, 5).map(lambda count: ("ship", count)),
            st.just(("gateway", 0)),
            st.integers(0, 60).map(lambda written: ("killed", written)),
            st.just(("shipper", 0)),
        ),
        max_size=40,
    )
)
def test_a_spool_is_a_queue_over_restarts(steps: list[tuple[str, Any]]) -> None:
    with TemporaryDirectory() as directory:
        spool = Spool(Path(directory), segment_bytes=150, max_bytes=1 << 20)
        reader = SpoolReader(Path(directory), spare_bytes=500)
        spool.open()
        reader.open()
        waiting: list[bytes] = []
        for step, value in steps:
            if step == "append":
                spool.append(value)
                waiting.append(value)
            elif step == "ship":
                batch = reader.read(reader.shipped, max_bytes=1 << 16, max_records=value)
                assert batch.records == waiting[: len(batch.records)]
                reader.ship(batch.end)
                del waiting[: len(batch.records)]
            elif step == "gateway":
                spool.close()
                spool.open()
            elif step == "killed":
                _kill_amid_append(spool, value)
                spool.open()
            else:
                reader.close()
                reader.open()
        found, position = [], reader.shipped
        while (batch := reader.read(position, max_bytes=64, max_records=3)).records:
            found += batch.records
            position = batch.end
        assert found == waiting
        assert (reader.pending_bytes() > 0) == bool(waiting)
        reader.close()
        spool.close()


names = st.sampled_from(["x", "c", "p", ""]) | st.text(max_size=5)
tensors = st.tuples(
    names,
    st.sampled_from(["FP32", "BYTES", "INT64", ""]),
    st.lists(st.integers(-2, 5), max_size=3),
    st.binary(max_size=40),
)


@settings(max_examples=300)
@given(st.lists(tensors, max_size=4), st.integers(-1, 1))
def test_what_passes_the_guard_can_be_read(
    parts: list[tuple[str, str, list[int], bytes]], extra: int
) -> None:
    """A request that the runtime will see holds exactly what its heads say."""
    request = service_pb2.ModelInferRequest(model_name="m")
    for name, datatype, shape, content in parts:
        request.inputs.add(name=name, datatype=datatype, shape=shape)
        request.raw_input_contents.append(content)
    if extra > 0:
        request.raw_input_contents.append(b"")
    elif extra < 0 and parts:
        del request.raw_input_contents[-1]
    told = request.SerializeToString()
    apart = split(told, 7)
    assert apart is not None
    head = service_pb2.ModelInferRequest.FromString(apart.head)
    verdicts: list[Any] = []
    for parsed, raw in ((request, request.raw_input_contents), (head, apart.values)):
        try:
            RULES.check(parsed, told, raw)
            verdicts.append(())
        except InvalidInference as error:
            assert error.violations
            verdicts.append(error.violations)
    assert verdicts[0] == verdicts[1]
    if verdicts[0]:
        return
    columns = json.loads(decode_request(told).columns)
    assert set(columns) == {"x", "c"}
    assert len(columns["x"]) == len(columns["c"]) > 0


@given(
    st.sampled_from([one for one in DATATYPES.values() if one.size and one.name != "BOOL"]),
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
    st.randoms(use_true_random=False),
)
def test_numbers_come_through_unchanged(datatype: Any, shape: list[int], random: Any) -> None:
    count = int(np.prod(shape))
    raw = bytes(random.getrandbits(8) for _ in range(count * datatype.size))
    array = np.frombuffer(raw, datatype.numpy)
    with np.errstate(invalid="ignore"):  # some bit patterns are signalling not-a-numbers
        finite = np.isfinite(array.astype("float64")).all()
    if not finite:
        return
    request = service_pb2.ModelInferRequest()
    request.inputs.add(name="v", datatype=datatype.name, shape=shape)
    request.raw_input_contents.append(raw)
    found = json.loads(decode_request(request.SerializeToString()).message)["inputs"][0]["data"]
    assert np.array(found, datatype.numpy).tobytes() == raw


@given(st.lists(st.text(max_size=8), max_size=6))
def test_texts_come_through_unchanged(texts: list[str]) -> None:
    request = service_pb2.ModelInferRequest()
    request.inputs.add(name="t", datatype="BYTES", shape=[len(texts)])
    encoded = [text.encode() for text in texts]
    request.raw_input_contents.append(
        b"".join(len(one).to_bytes(4, "little") + one for one in encoded)
    )
    assert json.loads(decode_request(request.SerializeToString()).columns) == {"t": texts}


@given(st.binary(max_size=200))
def test_no_bytes_break_the_decoder(body: bytes) -> None:
    try:
        decode_request(body)
    except UndecodableBody:
        return


@given(st.binary(max_size=100), st.text(max_size=300))
def test_an_added_field_is_the_one_that_counts(body: bytes, name: str) -> None:
    try:
        before = service_pb2.ModelInferRequest.FromString(body)
    except DecodeError:
        return
    after = service_pb2.ModelInferRequest.FromString(body + text_field(1, name))
    before.model_name = name
    assert after == before


@given(st.binary(max_size=300))
def test_no_bytes_break_the_archive_check(data: bytes) -> None:
    from services.inference.domain.signature import Flavor

    for flavor in Flavor:
        try:
            rebuild(flavor, data)
        except InvalidArchive:
            continue


pieces = [*"su019_.()[]{}'*+-/,:= \n\"", "Max", "os", "Symbol", "__"]
expressions = st.lists(st.sampled_from(pieces), max_size=30).map("".join)


@given(expressions)
def test_an_expression_that_passes_names_only_sizes(expression: str) -> None:
    text = json.dumps({"graph_module": {"x": {"expr_str": expression}}})
    try:
        clean_program(text)
    except InvalidArchive:
        return
    assert not any(sign in expression for sign in ("__", "[", "{", ":", '"', "os"))


@given(weights)
def test_shares_hold_within_a_percent_over_ten_thousand(shares: list[int]) -> None:
    splitter, total = TrafficSplitter(shares), sum(shares)
    seen = Counter(splitter.next() for _ in range(10_000))
    assert all(
        abs(seen[index] - 10_000 * share / total) <= 100 for index, share in enumerate(shares)
    )


keys = [str(number).encode() for number in range(4000)]


@settings(max_examples=20, deadline=None)
@given(weights, st.integers(0, 9), st.integers(0, 100))
def test_few_keys_move_when_a_share_changes(shares: list[int], place: int, share: int) -> None:
    """Keys move only to an entity whose share grew, and only from one whose share shrank."""
    place %= len(shares)
    after_shares = [*shares[:place], share, *shares[place + 1 :]]
    if not any(after_shares):
        return
    names = [f"entity-{index}" for index in range(len(shares))]
    before = StickyChooser(names, shares)
    after = StickyChooser(names, after_shares)
    for key in keys[:500]:
        old, new = before.choose(key), after.choose(key)
        if old != new:
            assert place == (new if share > shares[place] else old)


@settings(max_examples=10, deadline=None)
@given(weights)
def test_keys_are_spread_by_the_shares(shares: list[int]) -> None:
    chooser = StickyChooser([str(index) for index in range(len(shares))], shares)
    seen, total = Counter(chooser.choose(key) for key in keys), sum(shares)
    for index, share in enumerate(shares):
        expected = len(keys) * share / total
        # Five standard deviations of a binomial count.
        assert abs(seen[index] - expected) <= 5 * (expected * (1 - share / total)) ** 0.5 + 1
