"""``predict --ray``: two workers in processes of their own; a worker or the command is killed."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import bulk_libraries
import pytest
from bulk_runs import MOST_SECONDS, OUT, TO, ended, started, wait_for_parts
from command_line import IMAGES, Command
from parquet_images import by_image

import swin_deploy
from exporters.errors import ConfigError, FileError
from swin_deploy.bulk import on_ray
from swin_deploy.bulk.parts import parts_of_folder
from swin_deploy.images.labelled import find_images
from swin_deploy.predict.conditions import Described, described

pytest_plugins = ["bulk_fixtures"]
ACTOR = "ray::MapWorker(MapBatches(PartMaker))"
SIGNALS = {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143}

CLUSTER = """
import sys, ray
head = ray.init("local", num_cpus=2, include_dashboard=False, object_store_memory=1 << 27,
                _node_ip_address="127.0.0.1", log_to_driver=False)
print(head.address_info["gcs_address"], flush=True)
sys.stdin.read()
"""

# A start of a command whose workers do something before each picture.
BEFORE_EACH = """
import os, time
from swin_deploy.bulk import on_ray
class Watched(on_ray.PartMaker):
    def __call__(self, batch):
        from swin_deploy.bulk import on_ray, work
        on_ray.TRIES = 2  # each takes seconds
        pictures_of = work.pictures_of
        def watched(part):
            for one in pictures_of(part):
                {statement}
                yield one
        work.pictures_of = watched
        try:
            return super().__call__(batch)
        finally:
            work.pictures_of = pictures_of
Watched.__name__ = Watched.__qualname__ = "PartMaker"
on_ray.PartMaker, on_ray.TRIES = Watched, 2
"""
SLOW = BEFORE_EACH.format(statement="time.sleep(0.05)")
DYING = BEFORE_EACH.format(statement="if one.name.endswith('fatal.png'): os._exit(9)")


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[str, ...]]:
    """Options for two workers on a cluster that outlives the commands."""
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        env=bulk_libraries.ray_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield ("--ray", process.stdout.readline().strip(), "--workers", "2")
    finally:
        process.communicate(timeout=MOST_SECONDS)  # which closes its input: it ends


def on_workers(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A command in a process of its own, which may use Ray."""
    return started(code, *arguments, env=bulk_libraries.ray_environment())


def actors_of(process: subprocess.Popen[str]) -> list[int]:
    """Processes of Ray's actors that were started by a process, or by what it started."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            title = (place / "cmdline").read_bytes().decode(errors="replace")
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        found[int(place.name)] = (parent, title)

    def is_below(number: int) -> bool:
        while number in found and number != process.pid:
            number = found[number][0]
        return number == process.pid

    return [one for one, (_, title) in found.items() if title.startswith(ACTOR) and is_below(one)]


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_ray_answers_each_image_once_though_a_worker_is_killed(
    swin: Command, full: Path, digits: Path, pyarrow: object
) -> None:
    (digits / "bad.png").write_bytes(b"no picture")
    arguments = ("predict", full, digits, *TO, "--part-size", 4)
    assert swin(*arguments).status == 1
    expected = by_image(OUT)
    shutil.rmtree(OUT)

    process = on_workers(SLOW, *arguments, "--ray", "local", "--workers", 2, "--json")
    wait_for_parts(process, there=1)
    killed, *others = actors_of(process)
    assert others
    os.kill(killed, signal.SIGKILL)
    there = len(by_image(OUT))
    status, out, err = ended(process)
    assert 0 < there < 55  # it was killed in the middle
    assert status == 1, err
    assert json.loads(out) == {
        "folder": "out",
        "pictures": 61,
        "failed": 1,
        "files": len(list(OUT.glob("part-*"))),
    }
    found = by_image(OUT)
    assert found.keys() == expected.keys()
    assert len(found) == 61
    assert all(found[key]["indices"] == expected[key]["indices"] for key in found)
    assert swin(*arguments).status == 1  # it goes on here, and leaves nothing of the dead
    assert by_image(OUT).keys() == expected.keys()
    assert not list(OUT.glob(".*"))


@pytest.mark.slow
def test_ray_run_that_signals_end_is_gone_on_with(
    cluster: tuple[str, ...], swin: Command, full: Path, digits: Path, pyarrow: object
) -> None:
    arguments = ("predict", full, digits, *TO, "--part-size", 4)
    swin(*arguments).assert_done()
    expected = by_image(OUT)
    shutil.rmtree(OUT)
    there: dict[tuple[str, int | None, str], object] = {}
    for number, expected_status in SIGNALS.items():
        process = on_workers(SLOW, *arguments, *cluster)
        wait_for_parts(process, there=len(list(OUT.glob("part-*"))))
        process.send_signal(number)
        status, _, err = ended(process)
        assert status == expected_status, err
        if there:
            assert f"{OUT} has " in err
        if number != signal.SIGKILL:
            assert err.rstrip().endswith("ed; nothing half-written is left")
            assert not list(OUT.glob(".*"))
        found = by_image(OUT)
        assert there.keys() < found.keys() < expected.keys()
        there = dict(found)
    swin(*arguments).assert_done()
    assert by_image(OUT).keys() == expected.keys()
    assert not list(OUT.glob(".*"))


@pytest.mark.slow
def test_ray_gives_up_a_part_that_kills_each_worker(
    cluster: tuple[str, ...], swin: Command, full: Path, pyarrow: object
) -> None:
    shutil.copytree(IMAGES / "3", "digits")
    shutil.copy(next(Path("digits").iterdir()), "digits/fatal.png")
    arguments = ("predict", full, "digits", *TO, "--part-size", 8)
    status, out, err = ended(on_workers(DYING, *arguments, *cluster))
    assert (status, out) == (3, "")
    assert "2 workers died over each of these parts: digits: " in err
    assert "digits/fatal.png" not in {image for _, _, image in by_image(OUT)}
    outcome = swin(*arguments).assert_done()  # here nothing dies: one part was missing
    left = int(outcome.err.split(f"{OUT} has ")[1].split()[0])
    assert len(by_image(OUT)) - 8 <= left < len(by_image(OUT)) == 38


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("nowhere", "nowhere is no address of a Ray cluster; give local, auto or HOST:PORT"),
        ("ray://head:10001", "is no address of a Ray cluster"),
        ("127.0.0.1:1", "no Ray cluster at 127.0.0.1:1 (Connection refused)"),
        ("127.0.0.1:99999", "no Ray cluster at 127.0.0.1:99999"),
    ],
)
def test_wrong_address_is_one_line(
    address: str, message: str, swin: Command, full: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bulk_libraries.import_pyarrow()
    shutil.copytree(IMAGES / "3", "digits")
    # Ray itself is not asked: a stand-in shows that nothing of it is used.
    monkeypatch.setattr(on_ray, "load_ray", lambda: type("Ray", (), {"shutdown": lambda: None}))
    command = ("predict", full, "digits", "--parquet", OUT, "--ray", address)
    swin(*command).assert_error(message)
    assert not OUT.exists()


def test_wait_for_a_cluster_is_short_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(on_ray, "load_ray", lambda: None)
    variable = "RAY_py_gcs_connect_timeout_s"
    for address, before, after in (
        ("auto", {}, "10"),
        ("auto", {variable: "60"}, "60"),
        ("local", {}, None),
    ):
        monkeypatch.setattr(os, "environ", dict(before))
        on_ray.Cluster(address, _raise, OUT, workers=None)
        assert os.environ.get(variable) == after


def test_missing_ray_is_named_with_how_to_install_it(
    swin: Command, full: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bulk_libraries.import_pyarrow()
    shutil.copytree(IMAGES / "3", "digits")
    monkeypatch.setitem(sys.modules, "ray", None)
    swin("predict", full, "digits", "--parquet", OUT, "--ray", "local").assert_error(
        'Ray is not installed; install it: pip install "swin-deploy[ray]"'
    )


@pytest.mark.parametrize(
    ("nodes", "asked", "workers", "share"),
    [
        ([{"CPU": 64}], None, 16, {"num_cpus": 4}),
        ([{"CPU": 2}], None, 1, {"num_cpus": 2}),
        ([{"CPU": 2}], 2, 2, {"num_cpus": 1}),
        ([{"CPU": 6}, {"CPU": 2}], None, 4, {"num_cpus": 2}),
        ([{"CPU": 6}, {"CPU": 2}], 1, 1, {"num_cpus": 6}),
        ([{"CPU": 1}], 3, 3, {"num_cpus": 1 / 3}),
        ([{"CPU": 5}, {"CPU": 3}], 2, 2, {"num_cpus": 3}),
        ([{"CPU": 8, "GPU": 1}, {"CPU": 64, "GPU": 8}], None, 9, {"num_cpus": 1, "num_gpus": 1}),
        ([{"CPU": 8, "GPU": 1}], 2, 2, {"num_cpus": 1, "num_gpus": 0.5}),
        ([{"CPU": 4}, {}], None, 1, {"num_cpus": 4}),
    ],
)
def test_workers_fit_on_their_nodes(
    nodes: list[dict[str, float]], asked: int | None, workers: int, share: dict[str, float]
) -> None:
    found = [{"Alive": True, "Resources": one} for one in nodes]
    gone = {"Alive": False, "Resources": {"CPU": 1000, "GPU": 1000}}
    assert on_ray.worker_shares([*found, gone], asked) == (workers, share)


def test_workers_that_were_asked_for_run_at_the_same_time() -> None:
    cases = ((1,), (2,), (5, 3), (1, 8, 64)), (0, 1, 8), (*range(1, 30), 100, 1000)
    for cpus, gpus, workers in itertools.product(*cases):
        nodes = [{"CPU": one + workers * bool(gpus), "GPU": gpus} for one in cpus]
        alive = [{"Alive": True, "Resources": node} for node in nodes]
        found, share = on_ray.worker_shares(alive, workers)
        room = 0
        for node in nodes:
            on_cores = int(node["CPU"] / share["num_cpus"] + 1e-6)
            on_gpus = node["GPU"] * int(1 / share.get("num_gpus", 1) + 1e-6)  # none is on two
            room += min(on_cores, on_gpus) if gpus else on_cores
        assert room >= found == workers, (nodes, share)


def test_worker_passes_over_a_part_that_was_begun_too_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bulk_libraries.import_pyarrow()
    names = find_images(IMAGES)
    part = next(parts_of_folder(IMAGES, names[:1], size=1, conditions=""))
    begun = on_ray.Beginnings()
    load = partial(swin_deploy.Predictor, "notebook-digits")
    worker = on_ray.PartMaker(load, tmp_path, str(tmp_path), None, begin=begun.begin)
    batch = {"part": [pickle.dumps(part)]}
    for _ in range(on_ray.TRIES):
        (seen,) = worker(batch)["seen"]
        assert pickle.loads(seen).failed == 0
    (tmp_path / part.file).unlink()
    (seen,) = worker(batch)["seen"]
    assert pickle.loads(seen) is None
    assert not (tmp_path / part.file).exists()
    assert part.text == f"{IMAGES}: {names[0]} to {names[0]}"


def test_worker_refuses_another_model_and_a_folder_it_does_not_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    load = partial(swin_deploy.Predictor, "notebook-digits")

    def opened(model: Described | None, place: object = tmp_path) -> Described:
        return described(on_ray.PartMaker(load, tmp_path, str(place), model).opened())

    model = opened(None)
    with pytest.raises(FileError, match=r"does not see .*; name one on storage that all nodes"):
        opened(model)
    (tmp_path / "_predictions.json").write_text("{}")
    opened(model)
    other = dataclasses.replace(model, backend="another")
    with pytest.raises(ConfigError, match=r"another model or runner \(runs_on .*, not another\)"):
        opened(other)
    with pytest.raises(FileError, match="has no folder /nowhere"):
        opened(model, "/nowhere")


def test_worker_hands_its_own_error_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a worker goes there, and the folder is removed
    (part,) = parts_of_folder(tmp_path, ["a.png"], size=1, conditions="")
    worker = on_ray.PartMaker(_raise, tmp_path, str(tmp_path), None)
    (seen,) = worker({"part": [pickle.dumps(part)]})["seen"]
    error = pickle.loads(seen)
    assert (type(error), str(error)) == (FileError, "no room; free some")


def _raise() -> swin_deploy.Predictor:
    raise FileError("no room; free some")
