"""Values that are read anew when what they were read from has changed."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Fresh(Generic[T]):
    """What `read` gives. `state` tells, cheaply, whether it would give another thing by now."""

    def __init__(self, state: Callable[[], Any], read: Callable[[], T]) -> None:
        self.state, self.read, self.kept = state, read, list[tuple[Any, T]]()

    def __call__(self) -> T:
        state = self.state()  # before it is read: what changes meanwhile is read the next time
        if not self.kept or self.kept[0][0] != state:
            self.kept = [(state, self.read())]
        return self.kept[0][1]
