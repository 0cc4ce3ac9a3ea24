"""Parts made by the workers of a Ray cluster.

Ray Data hands the parts out, one actor a GPU or a share of the cores, and gives a part to another
actor when one dies. A part's file takes its name when it is whole, so one that is made twice is
there once. Pictures are read in the actors, by the same code as on one machine: Ray's own readers
of images know neither its limits nor its rows of failures.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import pickle
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from exporters import signals
from exporters.errors import ConfigError, DeployError, FileError, MissingBackendError
from exporters.staging import remove_left_over
from exporters.text_files import error_words, listed, shortened
from swin_deploy.bulk.libraries import load_ray
from swin_deploy.bulk.output import MANIFEST
from swin_deploy.bulk.parts import Part
from swin_deploy.bulk.work import Seen, make_part
from swin_deploy.predict.conditions import Described, described
from swin_deploy.predict.predictor import Predictor

LOCAL, AUTO = "local", "auto"
TRIES = 4  # of a part whose worker dies: Ray itself would go on for ever
CORES_A_WORKER = 4  # by default: each has a model in memory
MOST_STORE = 256 << 20  # bytes of the object store of a local cluster, which holds names only
CONNECT_S = 5.0
ENDING_S, POLL_S = 5.0, 0.1
UNFINISHED = ".part-*.tmp"
# Variables that Ray reads when it is imported, unless the user says otherwise.
NO_STATISTICS = {"RAY_USAGE_STATS_ENABLED": "0"}
# Where something else listens: one try, of 20 s and not 40, in which Ctrl-C is not heard.
FEW_TRIES = {"RAY_NUM_REDIS_GET_RETRIES": "1", "RAY_py_gcs_connect_timeout_s": "10"}
Load = Callable[[], Predictor]
Begin = Callable[[str], int]


class PartMaker:
    """A worker: a model in memory that makes one part after the other.

    Args:
        load: Function that opens the model.
        folder: Folder of part files.
        place: Folder that the command was started in, from which paths start.
        wanted: The model that the run is of; None to take this one.
        begin: Function that is told the digest of a part, and returns how often it was.
    """

    def __init__(
        self,
        load: Load,
        folder: Path,
        place: str,
        wanted: Described | None,
        *,
        begin: Begin = lambda digest: 1,
    ) -> None:
        self._load, self._folder, self._place, self._wanted = load, folder, place, wanted
        self._begin = begin
        self._predictor: Predictor | None = None

    def opened(self) -> Predictor:
        """Return the model, which is opened at the first call.

        Raises:
            DeployError: If the model or its runner is another one on this machine, or cannot be
                opened; or if this machine does not see the folders of the machine that began.
        """
        if self._predictor is None:
            here = socket.gethostname()
            try:
                os.chdir(self._place)
            except OSError as err:
                raise FileError(
                    f"node {here} has no folder {self._place}; run in one that all nodes share"
                ) from err
            if self._wanted is not None and not (self._folder / MANIFEST).is_file():
                raise FileError(
                    f"node {here} does not see {self._folder}; name one on storage that all nodes "
                    "share"
                )
            predictor = self._load()
            if self._wanted is not None:
                _require_same(described(predictor).conditions, self._wanted.conditions, here)
            self._predictor = predictor
        return self._predictor

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Make the parts of a batch of Ray Data.

        Returns:
            The parts, with what was unexpected, the error that stopped it, or None for a part that
            killed ``TRIES`` workers.
        """
        seen = [self._made(pickle.loads(one)) for one in batch["part"]]
        return {"part": batch["part"], "seen": [pickle.dumps(one) for one in seen]}

    def _made(self, part: Part) -> Seen | DeployError | None:
        if self._begin(part.digest) > TRIES:
            return None
        try:
            return make_part(part, self.opened(), self._folder)
        except DeployError as err:  # Ray Data would give its text only, inside its own
            return type(err)(str(err))


class Beginnings:
    """An actor that counts how often each part was begun, whichever workers have died."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def begin(self, digest: str) -> int:
        """Count one part; returns how often it was begun."""
        self._counts[digest] += 1
        return self._counts[digest]


@dataclass(frozen=True)
class Begun:
    """The function of an actor of ``Beginnings``, for workers.

    Attributes:
        actor: Handle of the actor.
    """

    actor: Any

    def __call__(self, digest: str) -> int:
        """Count one part; returns how often it was begun."""
        return int(load_ray().get(self.actor.begin.remote(digest)))


class Cluster:
    """A Ray cluster; open it with ``with``.

    Args:
        address: ``local`` for one of this machine's cores that ends with the block, ``auto`` for
            one that this machine is a node of, or such a cluster's ``HOST:PORT``.
        load: Function that opens the model; it is called on the nodes.
        folder: Folder of part files, on storage that all nodes share.
        workers: Number of workers; None for one a GPU, else one for every ``CORES_A_WORKER`` cores.

    Raises:
        ConfigError: If the address is none.
        MissingBackendError: If Ray is not installed, or there is no cluster at the address.
    """

    def __init__(self, address: str, load: Load, folder: Path, *, workers: int | None) -> None:
        require_address(address)
        self._address, self._load, self._folder = address, load, folder
        self._workers = workers
        self._share: dict[str, float] = {}
        for name, value in (NO_STATISTICS | (FEW_TRIES if address != LOCAL else {})).items():
            os.environ.setdefault(name, value)
        self._ray = load_ray()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.callback(_remove_unfinished, self._folder)
            stack.callback(self._ray.shutdown)
            self._start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def _start(self) -> None:
        if self._address not in (LOCAL, AUTO):
            _require_listener(self._address)
        started: dict[str, Any] = {"address": self._address}
        if self._address == LOCAL:
            started |= {
                "num_cpus": max(os.cpu_count() or 1, self._workers or 0),
                "include_dashboard": False,
                "object_store_memory": MOST_STORE,
                "_node_ip_address": "127.0.0.1",
            }
        handlers = {number: signal.getsignal(number) for number in signals.WORDS}
        try:
            self._ray.init(**started, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as err:
            raise _no_cluster(self._address, error_words(err)) from err
        finally:
            for number, handler in handlers.items():  # Ray takes SIGTERM for itself
                signal.signal(number, handler)
        self._workers, self._share = worker_shares(self._ray.nodes(), self._workers)

    @property
    def text(self) -> str:
        """Number of workers, and what each has."""
        gpus, cores = self._share.get("num_gpus"), self._share["num_cpus"]
        own = f"{gpus:.3g} GPU" if gpus else f"{cores:.3g} core" + "s" * (cores > 1)
        return f"{self._workers} workers with {own} each"

    def describe(self) -> Described:
        """Open the model on a node, and return what it is there.

        Raises:
            DeployError: If it cannot be opened there.
        """

        def opened(load: Load, folder: Path, place: str) -> Described:
            return described(PartMaker(load, folder, place, None).opened())

        task = self._ray.remote(**self._share)(opened)
        with _own_errors():
            return self._ray.get(task.remote(self._load, self._folder, os.getcwd()))

    def make(self, parts: Sequence[Part], wanted: Described) -> Iterator[tuple[int, Seen]]:
        """Make parts, in any order.

        Args:
            parts: The parts.
            wanted: The model that the run is of.

        Yields:
            Number of images of each part, once its file is there, and what was unexpected.

        Raises:
            DeployError: If a worker cannot go on, or a part killed each worker that began it; the
                other parts are made then.
        """
        if not parts:
            return
        data = self._ray.data
        counting = self._ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Beginnings)
        context = data.DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        rows = data.from_items(
            [{"part": pickle.dumps(part)} for part in parts], override_num_blocks=len(parts)
        )
        done = rows.map_batches(
            PartMaker,
            fn_constructor_args=(self._load, self._folder, os.getcwd(), wanted),
            fn_constructor_kwargs={"begin": Begun(counting.remote())},
            batch_size=1,
            compute=data.ActorPoolStrategy(size=min(self._workers or 1, len(parts))),
            **self._share,
        )
        lost = []
        with _own_errors():
            for row in done.iter_rows():
                part, seen = pickle.loads(row["part"]), pickle.loads(row["seen"])
                if isinstance(seen, DeployError):
                    raise seen
                if seen is None:
                    lost.append(part.text)
                else:
                    yield part.rows, seen
        if lost:
            raise MissingBackendError(
                f"{TRIES} workers died over each of these parts: {listed(lost)}; the other parts "
                "are there. Give workers more memory (fewer --workers, a smaller --batch), and run "
                "again"
            )


def worker_shares(
    nodes: Sequence[dict[str, Any]], workers: int | None
) -> tuple[int, dict[str, float]]:
    """Return the number of workers, and what each takes of its node.

    Args:
        nodes: Nodes of the cluster, as Ray describes them.
        workers: Number of workers that was asked for, which all run at the same time; None for
            one a GPU, else as many as fit.
    """
    found = [one["Resources"] for one in nodes if one["Alive"]]
    gpus = int(sum(one.get("GPU", 0) for one in found))
    if gpus:  # a core each: pictures are decoded in threads, and nodes differ
        count = workers or gpus
        return count, {"num_cpus": 1, "num_gpus": 1 / math.ceil(count / gpus)}
    cores = [int(one["CPU"]) for one in found if one.get("CPU", 0) >= 1] or [1]
    if workers is None:
        share = min(CORES_A_WORKER, *cores)
        return sum(one // share for one in cores), {"num_cpus": share}
    fit = (n for n in range(max(cores), 0, -1) if sum(one // n for one in cores) >= workers)
    return workers, {"num_cpus": next(fit, 0) or 1 / math.ceil(workers / sum(cores))}


def _remove_unfinished(folder: Path) -> None:
    """Remove what workers were writing, once they have ended; they are not waited for by Ray."""
    deadline = time.monotonic() + ENDING_S
    while time.monotonic() < deadline:
        remove_left_over(folder)
        if not any(folder.glob(UNFINISHED)):
            return
        time.sleep(POLL_S)


def require_address(address: str) -> None:
    """Refuse an address that is neither ``local``, ``auto`` nor HOST:PORT.

    Raises:
        ConfigError: If it is something else.
    """
    host, _, port = address.rpartition(":")
    if address in (LOCAL, AUTO) or (host and "/" not in host and port.isdecimal()):
        return
    raise ConfigError(
        f"{shortened(address)} is no address of a Ray cluster; give {LOCAL}, {AUTO} or HOST:PORT, "
        "on a node of the cluster"
    )


def _require_listener(address: str) -> None:
    """Refuse an address where nothing listens: Ray itself would wait for long."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except (OSError, OverflowError, ValueError) as err:
        raise _no_cluster(address, getattr(err, "strerror", None) or error_words(err)) from err


def _no_cluster(address: str, reason: str) -> MissingBackendError:
    return MissingBackendError(
        f"no Ray cluster at {address} ({reason}); begin one with ray start --head, or take --ray "
        f"{LOCAL}"
    )


def _require_same(found: dict[str, Any], wanted: dict[str, Any], here: str) -> None:
    """Refuse a model, or a runner of it, that is another one on this node."""
    names = [name for name, value in wanted.items() if found.get(name) != value]
    if names:
        told = [name for name in names if name in ("artifact", "sha256", "runs_on", "versions")]
        values = "; ".join(f"{name} {found.get(name)}, not {wanted[name]}" for name in told)
        raise ConfigError(
            f"node {here} has another model or runner ({values or ', '.join(names)}); make the "
            "nodes alike"
        )


@contextlib.contextmanager
def _own_errors() -> Iterator[None]:
    """Raise the worker's own error, which Ray wraps in several of its own."""
    try:
        yield
    except Exception as err:
        seen: BaseException | None = err
        while seen is not None:
            cause = getattr(seen, "cause", None)
            if isinstance(cause, DeployError):
                raise type(cause)(str(cause)) from err
            if isinstance(seen, DeployError) and type(seen).__module__ == DeployError.__module__:
                raise
            seen = cause if isinstance(cause, BaseException) else seen.__cause__
        raise MissingBackendError(
            f"the Ray cluster cannot go on ({error_words(err)}); the parts that are there stay, "
            "run again to go on"
        ) from err
