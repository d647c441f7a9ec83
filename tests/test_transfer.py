"""medqa.runtime.transfer: a folder is the same where it arrives, or it is refused."""

import os
from pathlib import Path

import pytest

from medqa.runtime import hashing
from medqa.runtime.errors import UserError
from medqa.runtime.transfer import CHUNK, check, chunks, write


@pytest.mark.parametrize("files", [{}, {"a": 0, "parts/b": 3}, {"a": CHUNK, "b": CHUNK + 1}])
def test_a_folder_in_chunks_is_the_same_elsewhere(tmp_path: Path, files: dict[str, int]) -> None:
    (tmp_path / "here" / "parts").mkdir(parents=True)
    for name, size in files.items():
        (tmp_path / "here" / name).write_bytes(os.urandom(size))
    parts = [*chunks(tmp_path / "here")]
    assert all(len(part) <= CHUNK for _, part in parts)
    write(parts, tmp_path / "there")
    content = hashing.dvc_hash(tmp_path / "here")
    assert check(tmp_path / "there", content) == tmp_path / "there"
    for damaged in (parts[:-1], parts + parts[-1:]) if files else ():
        write(damaged, folder := tmp_path / f"{len(damaged)} chunks")
        with pytest.raises(UserError, match=f"^{folder} arrived with another content than it was sent with"):
            check(folder, content)
