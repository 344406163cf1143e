"""When a message may go out: by the customer's own clock, also on the days on which clocks are changed."""

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from lifecycle.programs import WEEK, Policy, Program

AHEAD = 14  # days


def opens(program: Program, policy: Policy, at: datetime, zone: ZoneInfo) -> datetime | None:
    """The first moment from `at` on in the program's window, for marketing out of quiet hours; None in AHEAD days."""
    start, end = hours(program, policy)
    today = at.astimezone(zone).date()
    for day in (today + timedelta(days=n) for n in range(AHEAD)):
        if WEEK[day.weekday()] in program.window.days:
            first, last = local(day, start, zone), local(day, end, zone)
            if at < last and first < last:
                return max(at, first)
    return None


def hours(program: Program, policy: Policy) -> tuple[time, time]:
    """The part of a day in which a program may write."""
    window = program.window
    if program.kind == "transactional":
        return window.start, window.end
    loud = (policy.quiet_until, policy.quiet_from)
    if loud[0] >= loud[1]:  # quiet within a day, as from 01:00 to 06:00: the day begins after it
        return max(window.start, loud[0]), window.end
    return max(window.start, loud[0]), min(window.end, loud[1])


def local(day: date, clock: time, zone: ZoneInfo) -> datetime:
    """A time of a day there, in UTC. What a change of clocks leaves out is as much later; of two the first counts."""
    return datetime.combine(day, clock, zone).astimezone(UTC)


def local_day(moment: datetime, zone: ZoneInfo) -> date:
    return moment.astimezone(zone).date()
