"""One body over what keeps payload records, and over bundles, in memory and on disk."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.inference.adapters.bundles import FileBundles
from services.inference.adapters.memory import InMemoryBundles, InMemoryCapture
from services.inference.capture.reader import SpoolReader
from services.inference.capture.spool import Spool
from services.inference.errors import SpoolFull
from services.inference.ports import Bundles, Capture
from services.inference.runtime.bundle import ModelBundle


class CaptureContract:
    """What `ports.Capture` promises; the capture has room for 1000 bytes."""

    def kept(self, capture: Capture) -> list[bytes]:
        raise NotImplementedError

    def test_records_are_kept_in_order(self, capture: Capture) -> None:
        for number in range(5):
            capture.append(b"record %d" % number)
        assert self.kept(capture) == [b"record %d" % number for number in range(5)]

    def test_a_record_may_come_in_parts(self, capture: Capture) -> None:
        capture.append(b"rec", b"ord ", b"1")
        capture.append(b"record 2")
        assert self.kept(capture) == [b"record 1", b"record 2"]

    def test_without_room_nothing_is_kept(self, capture: Capture) -> None:
        capture.append(b"x" * 600)
        with pytest.raises(SpoolFull) as caught:
            capture.append(b"y" * 600)
        assert caught.value.retry_after is not None
        assert self.kept(capture) == [b"x" * 600]
        capture.append(b"z" * 100)
        assert self.kept(capture) == [b"x" * 600, b"z" * 100]

    def test_what_has_begun_is_no_record_yet_and_takes_room(self, capture: Capture) -> None:
        capture.begin("a", b"x" * 600)
        assert self.kept(capture) == []
        with pytest.raises(SpoolFull):
            capture.append(b"y" * 600)
        with pytest.raises(SpoolFull):
            capture.begin("b", b"y" * 600)
        capture.append(b"z" * 100)
        capture.end("a")
        capture.end("a")
        capture.append(b"y" * 600)
        assert self.kept(capture) == [b"z" * 100, b"y" * 600]

    def test_what_is_added_takes_room_and_goes_with_what_has_begun(self, capture: Capture) -> None:
        capture.begin("a", b"x" * 300)
        capture.add("a", b"y" * 300)
        capture.add("unknown", b"y" * 300)
        capture.add("a", b"z" * 900)
        with pytest.raises(SpoolFull):
            capture.append(b"y" * 600)
        capture.end("a")
        capture.append(b"y" * 600)
        assert self.kept(capture) == [b"y" * 600]


class TestMemoryCapture(CaptureContract):
    @pytest.fixture
    def capture(self) -> InMemoryCapture:
        return InMemoryCapture(room=1000)

    def kept(self, capture: Capture) -> list[bytes]:
        assert isinstance(capture, InMemoryCapture)
        return capture.records


class TestSpoolCapture(CaptureContract):
    folder: Path

    @pytest.fixture
    def capture(self, tmp_path: Path) -> Iterator[Spool]:
        self.folder = tmp_path
        spool = Spool(tmp_path, segment_bytes=1000, max_bytes=1000)
        spool.open()
        yield spool
        spool.close()

    def kept(self, capture: Capture) -> list[bytes]:
        assert isinstance(capture, Spool)
        found: list[bytes] = []
        reader = SpoolReader(self.folder)
        position = reader.shipped
        while (batch := reader.read(position, max_bytes=1 << 20, max_records=100)).records:
            found += batch.records
            position = batch.end
        return found


class BundlesContract:
    """What `ports.Bundles` promises."""

    BUNDLE = ModelBundle('{"name": "m"}', {"1/model.py": b"code", "1/model.pt2": b"\x00\xff"})

    async def test_a_bundle_comes_back_whole(self, bundles: Bundles) -> None:
        assert await bundles.get("m") is None
        await bundles.put("m", self.BUNDLE)
        assert await bundles.get("m") == self.BUNDLE

    async def test_a_bundle_is_replaced(self, bundles: Bundles) -> None:
        await bundles.put("m", self.BUNDLE)
        other = ModelBundle("{}", {"1/model.py": b"new"})
        await bundles.put("m", other)
        assert await bundles.get("m") == other

    async def test_only_the_named_ones_are_kept(self, bundles: Bundles) -> None:
        for name in ("a", "b", "c"):
            await bundles.put(name, self.BUNDLE)
        await bundles.keep_only(frozenset({"b", "unknown"}))
        assert await bundles.get("a") is None
        assert await bundles.get("b") == self.BUNDLE
        await bundles.keep_only(frozenset())
        assert await bundles.get("b") is None


class TestMemoryBundles(BundlesContract):
    @pytest.fixture
    def bundles(self) -> InMemoryBundles:
        return InMemoryBundles()


class TestFileBundles(BundlesContract):
    @pytest.fixture
    def bundles(self, tmp_path: Path) -> FileBundles:
        return FileBundles(tmp_path / "models")

    async def test_half_a_bundle_is_none(self, bundles: FileBundles, tmp_path: Path) -> None:
        await bundles.put("m", self.BUNDLE)
        (tmp_path / "models" / "m" / "config.json").unlink()
        assert await bundles.get("m") is None

    async def test_a_bundle_that_is_being_written_is_kept(self, bundles: FileBundles) -> None:
        begun, swept = threading.Event(), threading.Event()

        class Large(dict[str, bytes]):
            """Its second file comes when the others were removed."""

            def items(self) -> Any:
                yield "1/model.py", b"code"
                begun.set()
                swept.wait(30)
                yield "1/model.pt", b"weights"

        writing = asyncio.create_task(bundles.put("m", ModelBundle("{}", Large())))
        await asyncio.to_thread(begun.wait, 30)
        await bundles.keep_only(frozenset({"m"}))
        swept.set()
        await writing
        assert await bundles.get("m") == ModelBundle(
            "{}", {"1/model.py": b"code", "1/model.pt": b"weights"}
        )
