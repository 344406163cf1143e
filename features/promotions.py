"""The calendar of promotions: on what share of outlets and days each product is promoted, around one moment."""

DAY = 86_400_000_000  # microseconds
KINDS = ("mailer", "display", "price", "other")  # the word before the colon of a promotion's kind
SPANS = {"ahead": (0, 30), "lately": (-28, 0), "usual": (-182, 0)}  # days from the moment
COLUMNS = {f"{kind}_{span}": (kind, *days) for kind in KINDS for span, days in SPANS.items()}
PROMOTED = tuple(COLUMNS)


def share(kind: str, first: int, end: int) -> str:
    """SQL of the share of outlets and days on which promotions of a kind run, two on the same shelf counted twice."""
    span = f"greatest(0, least(ends, {end * DAY}) - greatest(starts, {first * DAY}))"
    total = f"sum(outlets * {span}) FILTER (kind = '{kind}')"
    return f"coalesce({total} / (every * {(end - first) * DAY}), 0)::FLOAT"


# Of the relation `promotions`, what was known before $until: one row a product that is promoted in any span.
# An outlet counts where any promotion of these spans names it; a promotion that names none runs in all of them.
SHARES = f"""
    WITH known AS (
        SELECT product_id, store_id, split_part(kind, ':', 1) AS kind,
            epoch_us(starts) - epoch_us($until) AS starts, epoch_us(ends) - epoch_us($until) AS ends
        FROM promotions WHERE known_at < $until
            AND ends > $until - INTERVAL {-min(a for a, _ in SPANS.values())} DAY
            AND starts < $until + INTERVAL {max(b for _, b in SPANS.values())} DAY),
    near AS (
        SELECT product_id, starts, ends, if(kind IN {KINDS}, kind, 'other') AS kind, every,
            if(store_id IS NULL, every, 1) AS outlets
        FROM known, (SELECT greatest(count(DISTINCT store_id), 1) AS every FROM known))
    SELECT product_id, {", ".join(f"{share(*of)} AS {name}" for name, of in COLUMNS.items())}
    FROM near GROUP BY product_id, every ORDER BY product_id"""
