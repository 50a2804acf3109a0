"""The manifest: any damage to a checkpoint is found, and the file is named."""

import pathlib
from collections.abc import Callable

import pytest

from trainloop import manifest
from trainloop.manifest import CheckpointDamaged

FILES = ("state.data-00000-of-00001", "state.index", manifest.NAME)


@pytest.fixture
def directory(tmp_path: pathlib.Path) -> pathlib.Path:
    for name in FILES[:2]:
        (tmp_path / name).write_bytes(f"content of {name}".encode())
    manifest.seal(tmp_path, {"step": 3, "metrics": {"loss": 0.5, "nan": float("nan")}})
    return tmp_path


def test_a_directory_as_it_was_written_is_whole(directory: pathlib.Path) -> None:
    manifest.verify(directory)
    read = manifest.read(directory)
    assert (read["step"], read["metrics"]["loss"]) == (3, 0.5)
    assert {name: file["size"] for name, file in read["files"].items()} == {name: 11 + len(name) for name in FILES[:2]}


@pytest.mark.parametrize("name", FILES)
def test_any_flipped_byte_is_found(directory: pathlib.Path, name: str) -> None:
    path = directory / name
    content = path.read_bytes()
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= (0x01, 0x20, 0xFF)[position % 3]  # 0x20 makes a capital of a letter
        path.write_bytes(damaged)
        with pytest.raises(CheckpointDamaged, match=str(path)):
            manifest.verify(directory)


DAMAGES: dict[str, Callable[[pathlib.Path], object]] = {
    "deleted": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "a directory": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=list(DAMAGES))
@pytest.mark.parametrize("name", FILES)
def test_any_damage_to_a_file_is_found(
    directory: pathlib.Path, name: str, damage: Callable[[pathlib.Path], object]
) -> None:
    damage(directory / name)
    with pytest.raises(CheckpointDamaged, match=str(directory / name)):
        manifest.verify(directory)


@pytest.mark.parametrize("content", ["[]", "{}", '{"sha256": ""}', '{"sha256": null}', "3", "null"])
def test_what_is_no_manifest_is_damage(directory: pathlib.Path, content: str) -> None:
    (directory / manifest.NAME).write_text(content)
    with pytest.raises(CheckpointDamaged, match=str(directory / manifest.NAME)):
        manifest.read(directory)
