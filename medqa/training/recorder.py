"""The recorder of a training run, in the stage's process: progress, checkpoints and outputs reach it."""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medqa import curves, hub
from medqa.runtime import folders, measurements
from medqa.runtime.progress import Bar
from medqa.training import checkpoints

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
Rows = Mapping[bytes, Any]


@dataclass
class Recorder:
    """Shows and writes what training reports. Whatever path it gets is a folder that it may take apart."""

    label: str  # of the progress bar
    base: Path
    folder: Path  # of the checkpoints
    out: Path  # the folder of the adapter
    curve: Path  # the file of the step curve
    columns: Mapping[str, str]  # of the curve, by the logged number
    cache: Callable[[Rows], None] | None = None
    bar: Bar | None = None

    def begin(self, steps: int, done: int) -> None:
        """Show a progress bar over the steps, of which some were done before."""
        self.end()
        self.bar = Bar(self.label, steps, "step", done)

    def step(self, note: str) -> None:
        """Count one step."""
        if self.bar:
            self.bar.update(note)

    def end(self) -> None:
        """Show the last state of the bar."""
        if self.bar:
            self.bar.close()
        self.bar = None

    def write(self, text: str) -> None:
        """Show a line for the user."""
        sys.stderr.write(text)
        sys.stderr.flush()

    def flush(self) -> None:
        """For use as a stream."""

    def store_checkpoint(self, written: Path, step: int) -> None:
        """Store what the trainer has written after a step."""
        checkpoints.store(written, self.folder, step)

    def store_rows(self, rows: Rows) -> None:
        """Put rows into the row cache, if there is one."""
        if self.cache:
            self.cache(rows)

    def finish(self, adapter: Path, steps: list[dict[str, float]], usage: measurements.Usage) -> None:
        """Write the adapter and the step curve, and note what a worker has used."""
        save_adapter(adapter, self.base, self.out)
        curves.write_curve(self.curve, steps, dict(self.columns))
        measurements.note(usage)


def save_adapter(written: Path, base: Path, out: Path) -> None:
    """Save the adapter that peft wrote and nothing else: equal weights give equal bytes on every machine."""
    with folders.atomic_folder(out) as folder:
        for name in ADAPTER_FILES:
            (folder / name).write_bytes((written / name).read_bytes())
        path = folder / "adapter_config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        # Peft writes sets in any order and the path it loaded; both differ between runs and machines.
        for name in ("target_modules", "exclude_modules"):
            if isinstance(config.get(name), list):  # else a pattern, or none
                config[name] = sorted(config[name])
        config["base_model_name_or_path"], config["revision"] = hub.address(base)
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
