"""Orbax checkpoints of one run: permanent ones at planned steps, and one temporary one by time.

A checkpoint holds the training state and a small JSON `meta` (run id, step, data fingerprint,
tokenizer). Restoring always uses our own abstract tree and shardings, so another number of devices
or hosts reads the same bytes. All processes of a group call all methods. They save together (each
writes what its devices hold); each restores by itself, then they compare what they could read.

At every moment at least one whole checkpoint is there, once there has been one: a save is written
under another name and renamed when it is complete; a temporary checkpoint is deleted only after a
newer one is complete, and is renamed out of the folder before its files go.
"""

import contextlib
import logging
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from stepladder.configs.core.errors import UserError
from stepladder.train.processes import faults, group
from stepladder.train.processes.foreign_errors import (
    first_line,
    is_disk_full,
    is_not_writable,
    is_out_of_reach,
)

# Added to the name of a folder of checkpoints:
UNREADABLE = ".unreadable"  # what lay in it and could not be read
DELETED = ".deleted"  # what is being deleted


class UnreadableError(UserError):
    """There are checkpoints, and none of those asked for can be read."""


class Checkpoints:
    """The checkpoints of one run.

    Args:
        path: their folder.
        permanent: the steps that are never deleted.
        read_only: nothing is created, saved or deleted; checkpoints may be set aside.

    Raises:
        UserError: when there is no such folder, or it cannot be created.
    """

    def __init__(self, path: Path, permanent: tuple[int, ...] = (), read_only: bool = False):
        self.path, self.read_only = Path(path).absolute(), read_only
        self.permanent = frozenset(permanent)
        if read_only and not self.path.is_dir():
            raise UserError(
                f"checkpoint={self.path}: no such folder; run `stepladder status` to see which "
                "checkpoints exist"
            )
        if not read_only:
            group.broadcast_from_zero(self._create)
            with self._errors_of_disk():
                # a process may have been killed while it deleted
                group.broadcast_from_zero(self._empty_deleted)
        self.manager = _manager(self.path, read_only, **self._all_processes())
        self.last_save = time.monotonic()

    @property
    def unreadable(self) -> Path:
        """Where unreadable checkpoints are kept."""
        return self.path.with_name(self.path.name + UNREADABLE)

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, in order."""
        return group.broadcast_from_zero(self._complete)

    def save(self, step: int, state: Any, meta: dict) -> None:
        """Start an asynchronous save.

        An earlier one is awaited first, and the temporary checkpoints that it replaced are deleted.
        Raises UserError when the disk is full or not writable.
        """
        self.wait()
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(jax.tree.map(_one_copy, state)),
            meta=ocp.args.JsonSave(meta),
        )
        with self._errors_of_disk():
            self.manager.save(step, args=args, force=True)
        faults.point("during_checkpoint")
        self.last_save = time.monotonic()

    def wait(self) -> None:
        """Block until the save under way is complete, then delete what it replaced.

        Raises UserError when the disk is full or not writable.
        """
        with self._errors_of_disk():
            self.manager.wait_until_finished()
            group.broadcast_from_zero(self._delete_replaced)

    def restore(self, abstract: Any, step: int | None = None) -> tuple[Any, dict] | None:
        """The state and meta at `step`, or at the latest readable step; None when there is no
        checkpoint.

        A damaged latest checkpoint is reported and an older one tried.

        Args:
            abstract: the tree of shapes, types and shardings to restore to.
            step: the only step to try.

        Raises:
            UserError: when there is no checkpoint at `step`, or what keeps one from being read is
                not in its files (memory, permissions).
            UnreadableError: when all are damaged. The caller decides what to go on from, and says
                so.
        """
        self.manager.reload()
        steps = self.steps()
        if step is not None and step not in steps:
            raise UserError(
                f"step={step}: no checkpoint there in {self.path}; existing: {steps or 'none'}"
            )
        candidates = steps[::-1] if step is None else [step]
        failures = []
        for candidate in candidates:
            restored, failure, damaged = self._try_to_read(candidate, abstract)
            # what one process cannot read, none does
            failure = next(filter(None, group.gather(failure)), "")
            if not failure:
                return restored.state, restored.meta
            if "out of reach" in group.gather("" if damaged else "out of reach"):
                raise UserError(
                    f"checkpoint={self.path}: cannot be read now ({failure}); free memory, or make "
                    "its files readable, and repeat the command"
                )
            failures.append(failure)
            if candidate != candidates[-1] and group.is_leader():
                logging.warning(
                    "checkpoint=%s: damaged (%s); trying an older one", self.path, failure
                )
        if failures:
            raise UnreadableError(
                f"checkpoint={self.path}: none is readable ({'; '.join(failures)})"
            )
        return None

    def read(self, step: int, abstract: Any) -> Any:
        """Read one checkpoint on this process; the result has `state` and `meta`.

        Raises whatever orbax and tensorstore do when the files cannot be read.
        """
        args = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract), meta=ocp.args.JsonRestore()
        )
        if group.count() == 1:
            return self.manager.restore(step, args=args)
        # By itself: a process that fails would leave the others at orbax's barrier.
        alone = {"primary_host": jax.process_index(), "active_processes": {jax.process_index()}}
        with _manager(self.path, read_only=True, **alone) as reader:
            return reader.restore(step, args=args)

    def set_aside_after(self, step: int) -> None:
        """Move later checkpoints to the folder `unreadable`: what cannot be read now, a slow file
        system may yet show whole. Raises UserError when the disk is full or not writable.
        """

        def move() -> None:
            for later in (s for s in self._complete() if s > step):
                self.unreadable.mkdir(exist_ok=True)
                (self.path / str(later)).rename(_free_name(self.unreadable / str(later)))

        with self._errors_of_disk():
            group.broadcast_from_zero(move)
        self.manager.reload()

    def close(self) -> None:
        """Wait for the save under way, then release the manager's threads."""
        if not self.read_only:
            self.wait()
        with self._errors_of_disk():
            self.manager.close()

    def _create(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"workdir={self.path}: cannot create it ({error.strerror}); choose another "
                "--workdir"
            ) from error

    def _all_processes(self) -> dict[str, Any]:
        """Options by which the processes of a group save together.

        Their barriers go by jax's key-value store: the default ones are collectives, which wait for
        the steps under way.
        """
        if group.count() == 1:
            return {}
        # run and folder: processes may see the WORKDIR under different paths
        name = "-".join(self.path.parts[-2:])
        return {"active_processes": set(range(group.count())), "barrier_sync_key_prefix": name}

    def _complete(self) -> list[int]:
        """Steps of the complete checkpoints: a save gets its number for a name when all of it is
        written.
        """
        return sorted(int(folder.name) for folder in self.path.iterdir() if folder.name.isdigit())

    @property
    def _deleted(self) -> Path:
        return self.path.with_name(self.path.name + DELETED)

    def _delete_replaced(self) -> None:
        """Delete every temporary checkpoint but the newest of all; each is renamed first, so that
        half of one is never taken for a checkpoint.
        """
        for old in self._complete()[:-1]:
            if old not in self.permanent:
                self._deleted.mkdir(exist_ok=True)
                (self.path / str(old)).rename(self._deleted / str(old))
                faults.point("during_deletion")
        self._empty_deleted()

    def _empty_deleted(self) -> None:
        if self._deleted.is_dir():
            shutil.rmtree(self._deleted)

    def _try_to_read(self, step: int, abstract: Any) -> tuple[Any, str, bool]:
        """(what is there, "", True) or (None, why not, whether its files are at fault).

        With several processes a second time, for a shared file system may lag.
        """
        failure, damaged = "", True
        for attempts_left in (1, 0) if group.count() > 1 else (0,):
            try:
                return self.read(step, abstract), "", True
            except Exception as error:
                # orbax and tensorstore raise many types for one cause: the files cannot be read
                failure = f"step {step}: {type(error).__name__}: {first_line(error, most=200)}"
                damaged = not is_out_of_reach(error)
                time.sleep(1.0 * attempts_left)
        return None, failure, damaged

    @contextlib.contextmanager
    def _errors_of_disk(self) -> Iterator[None]:
        """Errors that a user can mend become UserErrors."""
        try:
            yield
        except Exception as error:
            if is_disk_full(error):
                raise UserError(
                    f"workdir={self.path}: disk full (checkpoints); free space and repeat the "
                    "command, it resumes"
                ) from error
            if is_not_writable(error):
                raise UserError(
                    f"workdir={self.path}: not writable; choose another --workdir"
                ) from error
            raise


def _manager(path: Path, read_only: bool, **processes: Any) -> ocp.CheckpointManager:
    return ocp.CheckpointManager(
        path,
        options=ocp.CheckpointManagerOptions(
            create=False,
            read_only=read_only,
            cleanup_tmp_directories=not read_only,
            enable_async_checkpointing=not read_only,
            multiprocessing_options=ocp.options.MultiprocessingOptions(**processes),
        ),
    )


def _free_name(path: Path) -> Path:
    """`path`, or the first of path-1, path-2, ... that does not exist."""
    free, n = path, 0
    while free.exists():
        n += 1
        free = path.with_name(f"{path.name}-{n}")
    return free


def _one_copy(value: Any) -> Any:
    """A replicated array of one process as one device holds it: orbax would cut it into a part a
    device, with a dispatch each.
    """
    whole = (
        isinstance(value, jax.Array) and value.is_fully_replicated and value.is_fully_addressable
    )
    return value.addressable_data(0) if whole else value
