"""One tracker's process: a JSON line in, a call of its library out, until standard input ends.

Names, fingerprints and numbers arrive here and nothing else: no text of models, no paths, no
settings. Whatever the libraries would collect by themselves is turned off. Figures stay in the
store unless the library's own environment variables say where else.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

Values = Mapping[str, float]


class Run(Protocol):
    """One stage's run in a tracker; the same name goes on in the same run."""

    def log(self, step: int, values: Values) -> None: ...
    def end(self) -> None: ...


class TensorBoardRun:
    """A folder of event files; a resumed run adds one."""

    def __init__(self, folder: Path, project: str, name: str, about: Mapping[str, str]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / project / name))

    def log(self, step: int, values: Values) -> None:
        for key, value in values.items():
            self._writer.add_scalar(key, value, step)
        self._writer.flush()

    def end(self) -> None:
        self._writer.close()


class TrackioRun:
    """A run of trackio's local database."""

    def __init__(self, folder: Path, project: str, name: str, about: Mapping[str, str]) -> None:
        os.environ.setdefault("TRACKIO_DIR", str(folder))
        import trackio

        self._run = trackio.init(
            project, name=name, config=dict(about), resume="allow", embed=False,
            auto_log_gpu=False, auto_log_cpu=False,
        )  # fmt: skip

    def log(self, step: int, values: Values) -> None:
        self._run.log(dict(values), step=step)

    def end(self) -> None:
        self._run.finish()


class WandbRun:
    """Offline unless WANDB_MODE says otherwise; `wandb sync` sends it later, under the same id."""

    def __init__(self, folder: Path, project: str, name: str, about: Mapping[str, str]) -> None:
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        settings = wandb.Settings(
            console="off", silent=True, disable_code=True, disable_git=True, x_disable_stats=True,
            x_disable_meta=True, x_disable_machine_info=True, x_save_requirements=False,
        )  # fmt: skip
        mode: Any = os.environ.get("WANDB_MODE", "offline")
        self._run = wandb.init(
            project=project, id=name, name=name, config=dict(about), resume="allow", mode=mode,
            dir=str(folder), reinit="create_new", settings=settings,
        )  # fmt: skip
        # A resumed run repeats steps, which wandb's own counter refuses.
        self._run.define_metric("*", step_metric="at_step")

    def log(self, step: int, values: Values) -> None:
        self._run.log({**values, "at_step": step})

    def end(self) -> None:
        self._run.finish()


class MlflowRun:
    """A run of the store that MLFLOW_TRACKING_URI names, else of a folder."""

    def __init__(self, folder: Path, project: str, name: str, about: Mapping[str, str]) -> None:
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow import MlflowClient

        address = os.environ.get("MLFLOW_TRACKING_URI") or folder.resolve().as_uri()
        self._client = MlflowClient(address)
        present = self._client.get_experiment_by_name(project)
        experiment = present.experiment_id if present else self._client.create_experiment(project)
        same = self._client.search_runs([experiment], f"attributes.run_name = '{name}'")
        if same:
            self._id = same[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
            return
        run = self._client.create_run(experiment, run_name=name, tags={"mlflow.user": "factory"})
        self._id = run.info.run_id
        for key, value in about.items():
            self._client.log_param(self._id, key, value)

    def log(self, step: int, values: Values) -> None:
        for key, value in values.items():
            self._client.log_metric(self._id, _plain(key), value, step=step)

    def end(self) -> None:
        self._client.set_terminated(self._id)


def _plain(key: str) -> str:
    """MLflow takes no "@", and in a folder "seconds" cannot stand beside "seconds/train"."""
    return key.replace("@", "_at_").replace("/", ".")


RUNS: Mapping[str, Callable[[Path, str, str, Mapping[str, str]], Run]] = {
    "tensorboard": TensorBoardRun,
    "trackio": TrackioRun,
    "wandb": WandbRun,
    "mlflow": MlflowRun,
}


def main(name: str, folder: Path) -> None:
    """Mirror what arrives until nothing more comes; an error ends this process alone."""
    runs: dict[str, Run] = {}
    for line in sys.stdin:
        row = json.loads(line)
        run = row["run"]
        if run not in runs:
            runs[run] = RUNS[name](folder, row["project"], run, row["about"])
        if row["values"]:
            runs[run].log(row["step"], row["values"])
        if row["is_over"]:
            runs.pop(run).end()
    for run in runs.values():
        run.end()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
