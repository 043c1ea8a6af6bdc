"""What the journal took is there after a crash; what it could not take is refused."""

import contextlib
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stream.errors import JournalFull
from stream.journal import Journal, Reader, orphans, read


def make(tmp_path, **more):
    return Journal(tmp_path, most=more.pop("most", 1 << 30), **more)


def test_records_come_back_in_order_with_gapless_sequences_a_partition(tmp_path):
    journal = make(tmp_path)
    for k in range(100):
        journal.append(k % 3, {"k": "p", "value": k}, 1000)
    found = list(read(journal.folder, {}))
    assert [r["value"] for r in found] == list(range(100))
    for partition in range(3):
        assert [r["s"] for r in found if r["p"] == partition] == list(range(1, len([r for r in found if r["p"] == partition]) + 1))
    times = [r["t"] for r in found]
    assert times == sorted(set(times)), "recorded_at grows with every record, even where the clock stands still"


def test_a_torn_end_is_left_out_and_the_rest_is_read(tmp_path):
    journal = make(tmp_path)
    for k in range(10):
        journal.append(0, {"value": k}, 0)
    path = next(journal.folder.glob("*.seg"))
    path.write_bytes(path.read_bytes()[:-5])
    assert [r["value"] for r in read(journal.folder, {})] == list(range(9))


@pytest.mark.parametrize("seed", range(5))
def test_a_reader_behind_the_writer_sees_each_record_once_and_in_order(tmp_path, seed):
    rng = random.Random(seed)
    journal = make(tmp_path, segment=2000)
    reader = Reader(journal.folder)
    seen, written = [], 0
    for _ in range(400):
        deed = rng.random()
        if deed < 0.6:
            journal.append(0, {"value": written, "pad": "x" * rng.randrange(300)}, 0)
            written += 1
        elif deed < 0.9:
            seen += [r["value"] for r in reader.take(rng.choice((50, 500, 1 << 20)))]
        else:
            journal.trim({0: rng.randint(0, len(seen))})
    while found := reader.take():
        seen += [r["value"] for r in found]
    assert seen == list(range(written))


def test_a_segment_is_freed_by_its_reader_and_not_by_who_unlinks_it(tmp_path):
    journal = make(tmp_path, segment=300)
    reader = Reader(journal.folder)
    for k in range(12):
        journal.append(0, {"value": k, "pad": "x" * 80}, 0)
    while reader.take():
        pass

    def unlinked():
        names = []
        for link in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # the one of this listing
                names.append(str(link.readlink()))
        return sum(name.startswith(str(tmp_path)) and name.endswith("(deleted)") for name in names)

    before = len(list(journal.folder.glob("*.seg")))
    journal.trim({0: 9})
    gone = before - len(list(journal.folder.glob("*.seg")))
    assert gone > 1
    assert unlinked() == gone
    assert reader.take() == []
    assert unlinked() == 0
    journal.append(0, {"value": 12}, 0)
    assert [r["value"] for r in reader.take()] == [12]
    reader.close()


def test_a_reader_waits_for_a_record_that_is_there_in_part_and_passes_a_torn_one_that_was_left(tmp_path):
    journal = make(tmp_path)
    journal.append(0, {"value": 0}, 0)
    path = next(journal.folder.glob("*.seg"))
    start = path.stat().st_size
    journal.append(0, {"value": 1}, 0)
    whole = path.read_bytes()
    reader = Reader(journal.folder)
    for cut in range(start, len(whole)):
        path.write_bytes(whole[:cut])
        assert [r["value"] for r in reader.take()] == ([0] if cut == start else [])
    path.write_bytes(whole)
    assert [r["value"] for r in reader.take()] == [1]
    path.write_bytes(whole + whole[start:-3])
    assert reader.take() == [], "its writer may still be at it"
    later = make(tmp_path / "other")
    later.append(0, {"value": 2}, 0)
    (journal.folder / "00000002.seg").write_bytes(next(later.folder.glob("*.seg")).read_bytes())
    assert [r["value"] for r in reader.take()] == [2], "a writer that has begun another segment is done with this one"


def test_a_journal_that_is_being_made_is_nobodys_orphan(tmp_path):
    (tmp_path / "fresh").mkdir()
    (tmp_path / "fresh" / "lock.new").touch()
    assert list(orphans(tmp_path)) == []
    assert (tmp_path / "fresh").exists()


def test_trimming_unlinks_only_what_the_log_has_confirmed(tmp_path):
    journal = make(tmp_path, segment=400)
    for k in range(50):
        journal.append(k % 2, {"value": k}, 0)
    before = journal.bytes
    journal.trim({0: 10, 1: 10})
    assert 0 < journal.bytes < before
    left = [(r["p"], r["s"]) for r in read(journal.folder, {0: 10, 1: 10})]
    assert left == [(k % 2, k // 2 + 1) for k in range(20, 50)]
    journal.trim(journal.sequences)
    assert journal.bytes == 0
    assert journal.append(0, {"value": 50}, 0) == 26, "sequences go on after trimming"


def test_a_journal_at_its_bound_refuses_and_goes_on_when_there_is_room(tmp_path):
    journal = make(tmp_path, most=500)
    with pytest.raises(JournalFull):
        for k in range(100):
            journal.append(0, {"value": k}, 0)
    kept = [r["value"] for r in read(journal.folder, {})]
    assert kept == list(range(len(kept)))
    journal.trim(journal.sequences)
    journal.append(0, {"value": "after"}, 0)
    assert [r["s"] for r in read(journal.folder, {})] == [len(kept) + 1], "a refused record takes no sequence"


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_refuses_and_leaves_whole_records_only(tmp_path):
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("this machine does not let us mount a small disk")
    try:
        journal = make(tmp_path)
        with pytest.raises(JournalFull):
            for k in range(10_000):
                journal.append(0, {"value": k, "pad": "x" * 200}, 0)
        kept = [r["value"] for r in read(journal.folder, {})]
        assert kept == list(range(len(kept)))
        assert kept
        journal.trim(journal.sequences)
        with pytest.raises(JournalFull):
            for k in range(10_000):
                journal.append(0, {"value": k, "pad": "x" * 200}, 0)
        assert journal.failures == 2
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_the_journal_of_a_killed_process_is_adopted_once(tmp_path):
    code = "import sys,os,signal\nfrom pathlib import Path\nfrom stream.journal import Journal\nj=Journal(Path(sys.argv[1]),most=1<<20)\n[j.append(0,{'value':k},0) for k in range(7)]\nos.kill(os.getpid(),signal.SIGKILL)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    own = make(tmp_path)
    found = list(orphans(tmp_path))
    assert len(found) == 1
    folder, _ = found[0]
    assert folder != own.folder
    assert [r["value"] for r in read(folder, {})] == list(range(7))
    assert list(orphans(tmp_path)) == [], "a second process finds it locked"


def test_arrays_in_a_record_come_back_as_lists(tmp_path):
    journal = Journal(tmp_path, most=1 << 20)
    plain = {"k": "p", "q": [[0.25, 0.75]] * 3, "y": [0.75] * 3, "cols": {"a": [1.5, None, -0.0], "b": ["x", "y", None], "c": [1e300, 2.0, 3.0]}}
    given = {"k": "p", "q": np.array(plain["q"]), "y": np.array(plain["y"]), "cols": {"a": np.array([1.5, np.nan, -0.0]), "b": plain["cols"]["b"], "c": np.array(plain["cols"]["c"])}}
    matrix = {**plain, "cols": {"b": plain["cols"]["b"]}, "names": ("a", "c"), "x": np.column_stack([given["cols"]["a"], given["cols"]["c"]])}
    for record in (matrix, given, {"k": "p", "q": np.array([[1.0]]), "rows": [{"a": 1}]}, {**plain, "cols": dict(plain["cols"])}, {"k": "x", "status": 503}):
        journal.append(0, record, 7)
    found = [{k: v for k, v in record.items() if k not in "spt"} for record in read(journal.folder, {})]
    assert found[0] == plain, "a matrix is read as its columns"
    assert found[1:] == [plain, {"k": "p", "q": [[1.0]], "rows": [{"a": 1}]}, plain, {"k": "x", "status": 503}]
    assert [list(record["cols"]) for record in (found[1], found[3])] == [["a", "b", "c"]] * 2
    journal.close()
