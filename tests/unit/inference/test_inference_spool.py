"""The spool: what was appended is read in order, once the process was killed too."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from services.inference.capture import reader as reader_module
from services.inference.capture.folder import Position, SpoolFolder
from services.inference.capture.frames import END, HEADER_BYTES, frame_header
from services.inference.capture.reader import SpoolReader
from services.inference.capture.spool import Spool
from services.inference.errors import SpoolFull, StoreUnavailable
from tessera.events.v1.inference_events_pb2 import PayloadRecord


def make(path: Path, *, segment_bytes: int = 1 << 20, max_bytes: int = 1 << 24) -> Spool:
    spool = Spool(path, segment_bytes=segment_bytes, max_bytes=max_bytes)
    spool.open()
    return spool


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = make(tmp_path / "spool")
    yield spool
    spool.close()


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[SpoolReader]:
    reader = SpoolReader(tmp_path / "spool")
    reader.open()
    yield reader
    reader.close()


@contextmanager
def reading(path: Path) -> Iterator[SpoolReader]:
    reader = SpoolReader(path, spare_bytes=1 << 15)
    reader.open()
    yield reader
    reader.close()


def drain(reader: SpoolReader, *, max_records: int = 1000, max_bytes: int = 1 << 20) -> list[bytes]:
    """Everything that was not shipped, without shipping it."""
    found, position = [], reader.shipped
    while batch := reader.read(position, max_bytes=max_bytes, max_records=max_records):
        if not batch.records:
            return found
        found += batch.records
        position = batch.end
    return found


def kept(path: Path) -> list[bytes]:
    """What a spool holds."""
    with reading(path) as reader:
        return drain(reader)


def ship(reader: SpoolReader, records: int) -> None:
    """Ship so many."""
    reader.ship(reader.read(reader.shipped, max_bytes=1 << 20, max_records=records).end)


def ship_all(reader: SpoolReader) -> None:
    """Ship everything."""
    while (batch := reader.read(reader.shipped, max_bytes=1 << 20, max_records=1000)).records:
        reader.ship(batch.end)


def fill_again(spool: Spool, reader: SpoolReader) -> None:
    """Append and ship until the newest segment is an older one's file, of 100 bytes each."""
    for number in range(16):
        spool.append(b"record %02d" % number)
        ship_all(reader)


def segments(path: Path) -> list[Path]:
    return sorted(path.glob("*.segment"))


def test_records_come_back_in_order(spool: Spool, reader: SpoolReader) -> None:
    records = [b"record %d" % number for number in range(100)]
    for record in records:
        spool.append(record)
    assert drain(reader, max_records=7) == records
    assert drain(reader, max_bytes=64) == records


def test_a_record_larger_than_the_read_is_read_whole(spool: Spool, reader: SpoolReader) -> None:
    spool.append(b"x" * 5000)
    assert drain(reader, max_bytes=100) == [b"x" * 5000]


def test_nothing_behind_a_large_record_is_read_with_it(spool: Spool, reader: SpoolReader) -> None:
    for record in (b"x" * 5000, b"y" * 5000, b"z"):
        spool.append(record)
    batch = reader.read(reader.shipped, max_bytes=100, max_records=1000)
    assert batch.records == [b"x" * 5000]
    assert reader.read(batch.end, max_bytes=6000, max_records=1000).records == [b"y" * 5000, b"z"]


def test_what_was_not_shipped_outlives_both_processes(tmp_path: Path) -> None:
    first = make(tmp_path)
    with reading(tmp_path) as reader:
        for number in range(10):
            first.append(b"%d" % number)
        ship(reader, 4)
    first.close()
    second = make(tmp_path)
    with reading(tmp_path) as reader:
        assert drain(reader) == [b"%d" % number for number in range(4, 10)]
        second.append(b"new")
        assert drain(reader)[-1] == b"new"
    second.close()


def test_a_reader_goes_on_while_the_gateway_is_away_and_back(tmp_path: Path) -> None:
    with reading(tmp_path) as reader:
        assert drain(reader) == []
        for life in range(3):
            spool = make(tmp_path, segment_bytes=50)
            for number in range(5):
                spool.append(b"life %d, record %d" % (life, number))
            spool.close()
            assert drain(reader) == [b"life %d, record %d" % (life, number) for number in range(5)]
            ship(reader, 1)
            while (batch := reader.read(reader.shipped, max_bytes=64, max_records=2)).records:
                reader.ship(batch.end)
        assert reader.pending_bytes() == 0
        assert len(segments(tmp_path)) == 1


@pytest.mark.parametrize("torn", [1, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 3])
def test_a_torn_tail_is_cut_off(tmp_path: Path, torn: int) -> None:
    first = make(tmp_path)
    first.append(b"whole")
    first.close()
    frame = frame_header(b"torn record", seed=1) + b"torn record"
    with segments(tmp_path)[-1].open("ab") as file:
        file.write(frame[:torn])
    with reading(tmp_path) as reader:
        ship(reader, 1000)
        assert reader.read(reader.shipped, max_bytes=64, max_records=1).records == []
        second = make(tmp_path)
        second.append(b"after")
        assert drain(reader) == [b"after"]
    second.close()


def test_damage_in_the_middle_loses_no_later_segment(tmp_path: Path) -> None:
    first = make(tmp_path, segment_bytes=64)
    for number in range(12):
        first.append(b"record %02d" % number)
    first.close()
    damaged = segments(tmp_path)[1]
    content = bytearray(damaged.read_bytes())
    lost = len(content) // (HEADER_BYTES + 9)
    content[HEADER_BYTES] ^= 0xFF
    damaged.write_bytes(content)
    second = make(tmp_path)
    found = kept(tmp_path)
    assert len(found) == 12 - lost
    assert found[-1] == b"record 11"
    second.close()


def test_shipped_segments_go_away(tmp_path: Path) -> None:
    spool = make(tmp_path, segment_bytes=100)
    for number in range(50):
        spool.append(b"record %02d" % number)
    assert len(segments(tmp_path)) > 5
    with reading(tmp_path) as reader:
        ship_all(reader)
    assert len(segments(tmp_path)) == 1
    assert spool.pending_bytes() == 0
    spool.close()


def test_shipped_segments_are_written_again(tmp_path: Path) -> None:
    spool = make(tmp_path, segment_bytes=100)
    with reading(tmp_path) as reader:
        files: set[int] = set()
        for number in range(60):
            spool.append(b"record %02d" % number)
            if number % 4 == 3:
                assert drain(reader) == [b"record %02d" % (number - 3 + one) for one in range(4)]
                ship_all(reader)
            files |= {path.stat().st_ino for path in tmp_path.glob("*.s*")}
        assert len(files) == 2
        assert all(path.stat().st_size <= 100 + len(END) for path in tmp_path.glob("*.s*"))
    spool.close()


def test_where_nothing_is_new_what_is_old_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = make(tmp_path, segment_bytes=100)
    with reading(tmp_path) as reader:
        fill_again(spool, reader)
        with monkeypatch.context() as patched:
            patched.setattr(reader_module, "split_frames", lambda *_: pytest.fail("it was read"))
            assert drain(reader) == []
        spool.append(b"new")
        assert drain(reader) == [b"new"]
    spool.close()


def test_those_kept_to_be_written_again_are_bounded(tmp_path: Path) -> None:
    spool = make(tmp_path, segment_bytes=100)
    for number in range(60):
        spool.append(b"record %02d" % number)
    reader = SpoolReader(tmp_path, spare_bytes=250)
    reader.open()
    ship_all(reader)
    assert sum(path.stat().st_size for path in tmp_path.glob("*.spare")) == 2 * 5 * 17
    reader.close()
    spool.close()


@pytest.mark.parametrize("written", range(1, 2 * HEADER_BYTES + 9))
def test_what_a_file_held_before_is_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    """Records of one size lie at the same places in each life of a file."""
    spool = make(tmp_path, segment_bytes=100)
    with reading(tmp_path) as reader:
        fill_again(spool, reader)
        # What the file held goes on behind the one record of its new life, and is seen to.
        assert segments(tmp_path)[-1].read_bytes()[17:25] == END
        assert segments(tmp_path)[-1].stat().st_size == 5 * 17
        whole = os.pwritev

        def torn(file: int, parts: tuple[bytes, ...], offset: int) -> int:
            return whole(file, (b"".join(parts)[:written],), offset)

        with monkeypatch.context() as killed:
            killed.setattr(os, "pwritev", torn)
            killed.setattr(os, "ftruncate", lambda *_: None)
            with suppress(SpoolFull):
                spool.append(b"other one")
            found = [b"other one"] if written >= HEADER_BYTES + 9 else []
            assert drain(reader) == found
            spool.close()
        spool = make(tmp_path, segment_bytes=100)
        spool.append(b"record 17")
        assert drain(reader) == [*found, b"record 17"]
    spool.close()


def test_what_was_put_aside_is_no_newer_segment_once_the_rest_is_lost(tmp_path: Path) -> None:
    first = make(tmp_path, segment_bytes=100)
    for number in range(11):
        first.append(b"record %02d" % number)
    with reading(tmp_path) as reader:
        ship_all(reader)
    first.close()
    for path in [*segments(tmp_path), tmp_path / "position.json"]:
        path.unlink()
    second = make(tmp_path, segment_bytes=100)
    assert segments(tmp_path)[0].stem.endswith("03")
    second.close()


def test_what_a_killed_reader_left_goes_away(tmp_path: Path) -> None:
    spool = make(tmp_path, segment_bytes=100)
    for number in range(50):
        spool.append(b"record %02d" % number)
    SpoolFolder(tmp_path).write_position(Position(3, 0))
    assert kept(tmp_path)[0] == b"record 10"
    assert segments(tmp_path)[0].stem.endswith("03")
    spool.close()


def test_beyond_its_bound_it_refuses_and_recovers(tmp_path: Path) -> None:
    spool = make(tmp_path, segment_bytes=200, max_bytes=200)
    record = b"x" * (60 - HEADER_BYTES)
    for _ in range(3):
        spool.append(record)
    with pytest.raises(SpoolFull) as caught:
        spool.append(record)
    assert caught.value.retry_after is not None
    with pytest.raises(SpoolFull):
        spool.begin("a", record)
    with reading(tmp_path) as reader:
        assert len(drain(reader)) == 3
        ship(reader, 2)
        spool.begin("a", record)
        spool.end("a")
        spool.append(record)
        assert len(drain(reader)) == 2
    assert spool.pending_bytes() == 120
    spool.close()


def test_a_full_disk_leaves_no_half_record(
    spool: Spool, reader: SpoolReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool.append(b"first")
    whole = os.pwritev

    def short(descriptor: int, buffers: tuple[bytes, ...], offset: int) -> int:
        return whole(descriptor, (buffers[0], buffers[1][:2]), offset)

    monkeypatch.setattr(os, "pwritev", short)
    with pytest.raises(SpoolFull):
        spool.append(b"second")
    monkeypatch.setattr(os, "pwritev", whole)
    spool.append(b"third")
    assert drain(reader) == [b"first", b"third"]


def payload(name: str, text: str = "") -> bytes:
    return PayloadRecord(tessera_request_id=name, status_message=text).SerializeToString()


def test_what_has_begun_becomes_a_record_when_it_was_cut_short(tmp_path: Path) -> None:
    first = make(tmp_path)
    first.begin("ended", payload("ended", "cut"))
    first.begin("cut", payload("cut", "cut"))
    first.append(payload("ended"))
    first.end("ended")
    first.close()
    for _ in range(2):
        second = make(tmp_path)
        assert kept(tmp_path) == [payload("ended"), payload("cut", "cut")]
        second.close()


@pytest.mark.parametrize("is_shipped", [False, True])
def test_a_kill_between_an_end_and_its_note_leaves_one_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_shipped: bool
) -> None:
    first = make(tmp_path)
    for name in ("one", "other"):
        first.begin(name, payload(name, "cut"))
    first.append(payload("one"))
    first.close()
    with reading(tmp_path) as reader, monkeypatch.context() as patched:
        if is_shipped:
            ship(reader, 1000)
        # A start that is killed as soon as there is a new segment.
        patched.setattr(Spool, "_recover", lambda *_: None)
        make(tmp_path).close()
        if is_shipped:
            ship(reader, 1000)
            assert len(segments(tmp_path)) == 1
    second = make(tmp_path)
    wanted = [payload("other", "cut")] if is_shipped else [payload("one"), payload("other", "cut")]
    assert kept(tmp_path) == wanted
    second.close()


def test_what_was_added_is_merged_into_what_was_cut_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make(tmp_path)
    first.begin("a", payload("a", "begun"))
    first.add("a", PayloadRecord(status_message="asked", model_version=3).SerializeToString())
    whole = os.writev
    monkeypatch.setattr(os, "writev", lambda file, parts: whole(file, (parts[0],)))
    first.add("a", PayloadRecord(model_version=4).SerializeToString())
    monkeypatch.setattr(os, "writev", whole)
    first.add("a", PayloadRecord(duration_us=5).SerializeToString())
    first.add("a", PayloadRecord(duration_us=6).SerializeToString())
    first.close()
    (note,) = (tmp_path / "begun").iterdir()
    os.truncate(note, note.stat().st_size - 1)
    second = make(tmp_path)
    (record,) = map(PayloadRecord.FromString, kept(tmp_path))
    second.close()
    wanted = PayloadRecord(
        tessera_request_id="a", status_message="asked", model_version=3, duration_us=5
    )
    assert record == wanted


def test_a_note_that_is_not_whole_is_of_an_answer_that_never_left(tmp_path: Path) -> None:
    first = make(tmp_path)
    first.begin("a", payload("a"))
    first.close()
    (note,) = (tmp_path / "begun").iterdir()
    os.truncate(note, HEADER_BYTES + 2)
    second = make(tmp_path)
    assert kept(tmp_path) == []
    assert list((tmp_path / "begun").iterdir()) == []
    second.close()


def test_a_full_disk_leaves_no_half_note(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = os.writev
    monkeypatch.setattr(os, "writev", lambda file, parts: whole(file, (parts[0],)))
    with pytest.raises(SpoolFull):
        spool.begin("a", payload("a"))
    monkeypatch.setattr(os, "writev", whole)
    spool.begin("a", payload("a"))
    assert len(list((tmp_path / "spool" / "begun").iterdir())) == 1


def test_what_was_cut_short_waits_for_room(tmp_path: Path) -> None:
    first = make(tmp_path, max_bytes=300)
    first.append(payload("a", "x" * 100))
    first.begin("b", payload("b", "x" * 100))
    first.close()
    small = make(tmp_path, max_bytes=200)
    assert kept(tmp_path) == [payload("a", "x" * 100)]
    small.close()
    second = make(tmp_path)
    assert kept(tmp_path) == [payload("a", "x" * 100), payload("b", "x" * 100)]
    second.close()


def test_two_processes_cannot_share_an_end_of_it(
    spool: Spool, reader: SpoolReader, tmp_path: Path
) -> None:
    with pytest.raises(StoreUnavailable):
        make(tmp_path / "spool")
    with pytest.raises(StoreUnavailable):
        SpoolReader(tmp_path / "spool").open()


def test_a_damaged_position_sends_everything_again(tmp_path: Path) -> None:
    first = make(tmp_path)
    first.append(b"one")
    first.append(b"two")
    with reading(tmp_path) as reader:
        ship(reader, 1)
    first.close()
    (tmp_path / "position.json").write_text("{")
    second = make(tmp_path)
    assert kept(tmp_path) == [b"one", b"two"]
    second.close()


def test_a_position_in_a_lost_segment_starts_at_the_next(tmp_path: Path) -> None:
    first = make(tmp_path)
    first.append(b"one")
    SpoolFolder(tmp_path).write_position(Position(1, HEADER_BYTES + 3))
    first.close()
    for path in segments(tmp_path):
        path.unlink()
    second = make(tmp_path)
    second.append(b"two")
    assert kept(tmp_path) == [b"two"]
    second.close()


@pytest.mark.parametrize("record", [b"", b"x" * ((64 << 20) + 1)])
def test_records_of_impossible_size_are_refused(tmp_path: Path, record: bytes) -> None:
    spool = make(tmp_path, max_bytes=1 << 27)
    with pytest.raises(ValueError, match="bytes"):
        spool.append(record)
    spool.close()
