"""Places where files lie: paths on this machine's disks, and addresses in object stores that pyarrow knows (s3://,
gs://)."""

from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote

from pyarrow import fs

from lib.paths import atomic_file


def located(place: str) -> tuple[fs.FileSystem, str]:
    """The file system of a place, and the path there."""
    if "://" in place:
        return fs.FileSystem.from_uri(place)
    return fs.LocalFileSystem(), str(Path(place).absolute())


def everywhere(place: str) -> str:
    """A place as processes name it that run in other folders."""
    place = place.removeprefix("file://")
    return place if "://" in place else str(Path(place).absolute())


def below(place: str, name: str) -> str:
    """The place of the file `name` below another."""
    if "://" not in place:
        return str(Path(place) / name)
    address, mark, query = place.partition("?")
    return f"{address.rstrip('/')}/{quote(name)}{mark}{query}"


def parent(place: str) -> tuple[str, str]:
    """The folder of a file, and the file's name there, so that `below` of both is its place."""
    if "://" not in place:
        return str(Path(place).parent), Path(place).name
    address, mark, query = place.partition("?")
    folder, name = address.rsplit("/", 1)
    return f"{folder}{mark}{query}", unquote(name)


def write_file(content: bytes, folder: str, name: str) -> None:
    """The file `name` below `folder`, whole or not at all."""
    if "://" not in folder:
        with atomic_file(Path(folder) / name) as temporary:
            temporary.write_bytes(content)
        return
    system, path = located(folder)
    target = PurePosixPath(path) / name
    system.create_dir(str(target.parent))
    with system.open_output_stream(str(target)) as file:  # an object appears when it is whole
        file.write(content)


def read_file(folder: str, name: str) -> bytes | None:
    """None where there is none."""
    system, path = located(folder)
    target = str(PurePosixPath(path) / name)
    if system.get_file_info(target).type == fs.FileType.NotFound:
        return None
    with system.open_input_stream(target) as file:
        return file.read()


def files_below(folder: str) -> dict[str, int]:
    """The names of all files below `folder`, with their sizes in bytes; none where there is no such folder."""
    system, path = located(folder)
    files = system.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
    return {
        str(PurePosixPath(file.path).relative_to(path)): file.size for file in files if file.type == fs.FileType.File
    }
