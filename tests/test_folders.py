"""medqa.runtime.folders: a folder is there whole, or as it was before."""

from pathlib import Path

import pytest

from medqa.runtime.folders import atomic_folder, is_empty, write_empty


def test_a_folder_replaces_the_former_one_when_it_is_whole(tmp_path: Path) -> None:
    out = tmp_path / "models" / "base"
    with atomic_folder(out) as folder:
        (folder / "old.txt").write_text("old")
    with atomic_folder(out) as folder:
        (folder / "parts").mkdir()
        (folder / "parts" / "new.txt").write_text("new")
        assert (out / "old.txt").is_file()
    assert sorted(path.name for path in out.rglob("*")) == ["new.txt", "parts"]
    assert [path.name for path in out.parent.iterdir()] == ["base"]


def test_a_folder_that_fails_leaves_no_trace(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "base") as folder:
        (folder / "part.txt").write_text("half")
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_a_folder_is_empty_also_with_the_reason_for_that(tmp_path: Path) -> None:
    out = tmp_path / "oracle"
    assert not is_empty(out)  # it is not there
    out.mkdir()
    assert is_empty(out)
    write_empty(out, "control.oracle is false")
    assert is_empty(out) and [path.read_text() for path in out.iterdir()] == ["control.oracle is false\n"]
    (out / "adapter_model.safetensors").write_text("weights")
    assert not is_empty(out)
