"""Specifications, paths and logs: nothing is lost on the way, and nothing leaves its place."""

from __future__ import annotations

import tempfile
from datetime import timedelta
from pathlib import Path, PurePosixPath

import hypothesis.strategies as st
from hypothesis import given, settings

from services.training.adapters.logs import FileLogs
from services.training.adapters.processes import attempt_folder
from services.training.convert.messages import spec_message, spec_value
from services.training.domain.checks import check_checkpoint_path
from services.training.domain.job import (
    FileSource,
    GitSource,
    Job,
    JobSpec,
    JobState,
    PackageSource,
    Resources,
    RetryPolicy,
)
from services.training.domain.queue import Capacity, need, next_job
from services.training.errors import InvalidPath
from services.training.ports import AttemptKey
from services.training.supervisor.log_writer import LogWriter
from tests.property.test_training_life import START

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
spans = st.integers(0, 10**9).map(lambda micros: timedelta(microseconds=micros))
specs = st.builds(
    JobSpec,
    name=st.just("job"),
    source=st.one_of(
        st.builds(PackageSource, texts),
        st.builds(FileSource, texts, texts),
        st.builds(GitSource, texts, texts, texts),
    ),
    arguments=st.lists(texts, max_size=3).map(tuple),
    environment=st.dictionaries(texts, texts, max_size=3),
    resources=st.builds(
        Resources, st.integers(1, 64), st.integers(0, 9), st.integers(0, 99), st.integers(0, 3)
    ),
    retry=st.builds(RetryPolicy, st.integers(0, 100), spans, spans),
    timeout=spans.map(lambda span: span + timedelta(seconds=1)),
    experiment=texts.filter(bool),
    input_tables=st.lists(texts, max_size=3, unique=True).map(tuple),
    output_model=texts,
    tags=st.dictionaries(texts, texts, max_size=3),
)


@given(specs)
def test_a_specification_survives_its_message(spec: JobSpec) -> None:
    message = spec_message(spec)
    assert spec_value(type(message).FromString(message.SerializeToString())) == spec


@given(
    st.text(max_size=40) | st.lists(st.sampled_from(["..", ".", "", "a", "b\\", "/"])).map("/".join)
)
def test_an_accepted_checkpoint_path_stays_below_its_root(path: str) -> None:
    try:
        check_checkpoint_path(path)
    except InvalidPath:
        return
    place = PurePosixPath("/root/step") / path
    assert place.is_relative_to("/root/step") and place != PurePosixPath("/root/step")
    assert ".." not in place.parts and str(place) == f"/root/step/{path}"


lines = st.binary(max_size=30).map(lambda line: line.replace(b"\n", b"").replace(b"\r", b""))


@given(st.lists(st.tuples(st.integers(0, 2), lines), max_size=20), st.data())
@settings(max_examples=60)
def test_logs_read_as_they_were_written_however_the_output_was_cut(
    written: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as root:
        key = AttemptKey("job", 1)
        folder = attempt_folder(Path(root), key)
        folder.make()
        writer = LogWriter(folder.logs, 3, 1 << 20)
        for rank, line in written:
            output = line + b"\n"
            cut = data.draw(st.integers(0, len(output)))
            for piece in (output[:cut], output[cut:]):
                if piece:
                    writer.write(rank, piece)
        for rank in range(3):
            writer.finish(rank)
        writer.close()
        found = [(one.number, one.rank, one.text) for one in FileLogs(Path(root))._read(key, 0, 99)]
        expected = [
            (number, rank, line.decode("utf-8", "replace"))
            for number, (rank, line) in enumerate(written)
        ]
        assert found == expected
        start = data.draw(st.integers(0, len(written)))
        assert [one.number for one in FileLogs(Path(root))._read(key, start, 2)] == [
            number for number, _, _ in expected[start : start + 2]
        ]


jobs = st.lists(
    st.tuples(st.sampled_from(["ann", "bob", "eve"]), st.integers(1, 5), st.integers(0, 4)),
    min_size=1,
    max_size=12,
)


@given(jobs, st.integers(1, 6))
def test_the_queue_fills_its_room_starves_nobody_and_shares_it(
    wanted: list[tuple[str, int, int]], slots: int
) -> None:
    capacity = Capacity(slots)
    waiting = [
        Job(
            f"{number:04}",
            JobSpec("job", PackageSource("m"), resources=Resources(processes, threads)),
            who,
            START + timedelta(seconds=number),
            JobState.QUEUED,
        )
        for number, (who, processes, threads) in enumerate(wanted)
    ]
    running: list[Job] = []
    order: list[str] = []
    while waiting or running:
        while (job := next_job(waiting, running, capacity, START)) is not None:
            waiting.remove(job)
            running.append(job)
            order.append(job.job_id)
            held = sum(need(one.spec.resources, capacity).slots for one in running)
            assert held <= slots
        # Room for whose turn it is comes as others end: nothing waits for ever.
        assert running
        running.pop(0)
    assert len(order) == len(wanted)
    for who in {"ann", "bob", "eve"}:
        own = [job for job in order if wanted[int(job)][0] == who]
        assert own == sorted(own)
