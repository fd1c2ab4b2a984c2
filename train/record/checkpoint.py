"""Orbax checkpoints of one run: permanent ones at planned steps, and one temporary one by time.

A checkpoint holds the training state and a small JSON `meta` (run id, step, data fingerprint,
tokenizer). Restoring always uses our own abstract tree and shardings, so another number of devices
or hosts reads the same bytes. The processes of a group save together (each writes what its devices
hold, and all methods are called by all of them); each restores by itself, then they compare what
they could read.

At every moment at least one whole checkpoint is there, once there has been one: a save is written
under another name and renamed when it is complete; a temporary checkpoint is deleted only after a
newer one is complete, and is renamed out of the folder before its files go.
"""

import errno
import logging
import shutil
import time
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from stepladder.configs.core.errors import UserError
from stepladder.train.processes import faults, group

logging.getLogger("absl").setLevel(logging.ERROR)  # orbax logs a page per save


# added to the name of a folder of checkpoints: what lay in it and could not be read
ASIDE = ".unreadable"
DELETED = ".deleted"  # the same for what is being deleted


class UnreadableError(UserError):
    """There are checkpoints, and none of those asked for can be read."""


class Checkpoints:
    """The checkpoints under `path`. `permanent` are the steps never deleted."""

    def __init__(self, path: Path, permanent: tuple[int, ...] = (), read_only: bool = False):
        self.path, self.permanent, self.read_only = (
            Path(path).absolute(),
            frozenset(permanent),
            read_only,
        )
        if read_only and not self.path.is_dir():
            raise UserError(
                f"checkpoint={self.path}: no such folder; run `stepladder status` to see which "
                "checkpoints exist"
            )
        if not read_only:
            group.share(self._create)
            # a process was killed while it deleted
            self._guarded(lambda: group.share(self._empty_deleted))
        together = {}
        # barriers by jax's key-value store: the default ones are collectives, which wait for the
        # steps under way
        if group.count() > 1:
            # run and folder: processes may see the WORKDIR under different paths
            name = "-".join(self.path.parts[-2:])
            together = {
                "active_processes": set(range(group.count())),
                "barrier_sync_key_prefix": name,
            }
        self.manager = _manager(self.path, read_only, **together)
        self.last_save = time.monotonic()

    def _create(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"workdir={self.path}: cannot create it ({error.strerror}); choose another "
                "--workdir"
            ) from error

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, in order."""
        return group.share(self._complete)

    def _complete(self) -> list[int]:
        """A save gets its number for a name when all of it is written (orbax renames the
        folder).
        """
        return sorted(int(folder.name) for folder in self.path.iterdir() if folder.name.isdigit())

    def save(self, step: int, state: Any, meta: dict) -> None:
        """Start an asynchronous save.

        An earlier one is awaited first, and the temporary checkpoints that it replaced are deleted.
        """
        self.wait()
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(jax.tree.map(_one_copy, state)),
            meta=ocp.args.JsonSave(meta),
        )
        self._guarded(lambda: self.manager.save(step, args=args, force=True))
        faults.point("during_checkpoint")
        self.last_save = time.monotonic()

    def wait(self) -> None:
        """Block until the save under way is complete, then delete what it replaced.

        Raises UserError when the disk is full.
        """
        self._guarded(self.manager.wait_until_finished)
        self._guarded(lambda: group.share(self._delete_replaced))

    def _delete_replaced(self) -> None:
        """Every temporary checkpoint but the newest of all: renamed first, so that half of one is
        never taken for a checkpoint.
        """
        for old in self._complete()[:-1]:
            if old not in self.permanent:
                self._deleted.mkdir(exist_ok=True)
                (self.path / str(old)).rename(self._deleted / str(old))
                faults.point("during_deletion")
        self._empty_deleted()

    @property
    def _deleted(self) -> Path:
        return self.path.with_name(self.path.name + DELETED)

    def _empty_deleted(self) -> None:
        if self._deleted.is_dir():
            shutil.rmtree(self._deleted)

    def restore(self, abstract: Any, step: int | None = None) -> tuple[Any, dict] | None:
        """The state and meta at `step`, or at the latest readable step; None when there is no
        checkpoint.

        An unreadable latest checkpoint is reported and an older one tried. Raises UnreadableError
        when all are unreadable: the caller decides what to go on from, and says so.
        """
        self.manager.reload()
        steps = self.steps() if step is None else [s for s in self.steps() if s == step]
        if step is not None and not steps:
            raise UserError(
                f"step={step}: no checkpoint there in {self.path}; existing: "
                f"{self.steps() or 'none'}"
            )
        failures = []
        for candidate in reversed(steps):
            restored, failure = self._tried(candidate, abstract)
            # what one process cannot read, none does
            failure = next(filter(None, group.gather(failure)), "")
            if not failure:
                return restored.state, restored.meta
            failures.append(failure)
            logging.warning(
                "unreadable checkpoint %s/%s; trying an older one", self.path, candidate
            )
        if failures:
            raise UnreadableError(
                f"checkpoint={self.path}: none is readable ({'; '.join(failures)})"
            )
        return None

    def _tried(self, step: int, abstract: Any) -> tuple[Any, str]:
        """(what is there, "") or (None, why not); with several processes after a second try, for a
        shared file system may lag.
        """
        for left in (1, 0) if group.count() > 1 else (0,):
            try:
                return self._read(step, abstract), ""
            except Exception as error:
                # orbax and tensorstore raise many types for one cause: the files cannot be read
                failure = f"step {step}: {type(error).__name__}: {str(error).splitlines()[0][:200]}"
                time.sleep(1.0 * left)
        return None, failure

    def _read(self, step: int, abstract: Any) -> Any:
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
        """Move later checkpoints to the folder `aside` beside: what cannot be read now, a slow file
        system may yet show whole.
        """

        def move() -> None:
            for later in (s for s in self._complete() if s > step):
                self.aside.mkdir(exist_ok=True)
                (self.path / str(later)).rename(_free_name(self.aside / str(later)))

        self._guarded(lambda: group.share(move))
        self.manager.reload()

    @property
    def aside(self) -> Path:
        """Where unreadable checkpoints are kept."""
        return self.path.with_name(self.path.name + ASIDE)

    def close(self) -> None:
        """Wait for the save under way, then release the manager's threads."""
        if not self.read_only:
            self.wait()
        self._guarded(self.manager.close)

    def _guarded(self, action):
        try:
            return action()
        except Exception as error:
            text = str(error)
            if (
                getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
                or "No space left" in text
                or "RESOURCE_EXHAUSTED" in text
            ):
                raise UserError(
                    f"workdir={self.path}: disk full while saving a checkpoint; free space and "
                    "repeat the command, it resumes"
                ) from error
            if (
                isinstance(error, PermissionError)
                or "PERMISSION_DENIED" in text
                or "Permission denied" in text
            ):
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
