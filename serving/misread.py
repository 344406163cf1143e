"""A shop's own file that is not understood, and whether it has been written anew since."""

from pathlib import Path
from typing import NamedTuple


class Writing(NamedTuple):
    """A file and which writing of it; 0 where there is none."""

    path: Path
    inode: int = 0
    written: int = 0
    size: int = 0


class Misread(ValueError):
    """A file of the shop's is not understood. The message tells of each fault the line and the way out, and nothing of
    any customer: it may go to a log."""

    def __init__(self, path: Path, says: str) -> None:
        super().__init__(says)
        self.path, self.writing = path, writing(path)


def writing(path: Path) -> Writing:
    try:
        about = path.stat()
    except OSError:
        return Writing(path)
    return Writing(path, about.st_ino, about.st_mtime_ns, about.st_size)
