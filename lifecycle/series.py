"""Series: messages of one program that follow each other, as three tries to win somebody back, in their order."""

from collections.abc import Mapping
from datetime import datetime, timedelta

from lifecycle.programs import Entered


def step_now(
    trigger: Entered, key: str, sent: Mapping[str, datetime], at: datetime | None
) -> tuple[int, str] | None:
    """(the number of the step that comes next, the key of its occasion) where the time of some step has come, by `key`.

    A step comes after the one before it went (`sent`: when, by key), and after the days between the two, less those
    `within` which it may go; so whoever comes late begins with the first. None: not yet, or all have gone.
    """
    stage, _, order = key.split(":", 2)
    keys = [f"{stage}:{step:g}:{order}" for step in trigger.steps]
    number = next((n for n, name in enumerate(keys) if name not in sent), len(keys))
    if number == len(keys):
        return None
    if number and at:
        between = trigger.steps[number] - trigger.steps[number - 1]
        rest = timedelta(days=max(between - trigger.within, 0))
        if at < sent[keys[number - 1]] + rest:
            return None
    return number + 1, keys[number]
