"""Lengths: how much a channel carries, and a text that fits."""

from collections.abc import Callable

GSM = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmno"
    "pqrstuvwxyzäöñüà"
)
GSM_TWICE = frozenset("\f^{}\\[~]|€")  # take two places
SMS_PARTS = 2  # an SMS has at most
SMS_END = 60  # places that may be kept for how to end these


def cut(text: str, most: int, length: Callable[[str], int] = len, mark: str = "…") -> str:
    """The text, or as many of its words as fit with a mark behind them; a first word that is too long is cut."""
    text = " ".join(text.split())
    if length(text) <= most:
        return text
    words = text.split(" ")
    while words and length(" ".join(words) + mark) > most:
        words.pop()
    kept = " ".join(words) or text
    while kept and length(kept + mark) > most:
        kept = kept[:-1]
    return kept + mark


def sms_length(text: str) -> int:
    """Places that a text takes: septets where GSM's alphabet has all of it, UTF-16 units elsewhere."""
    if is_gsm(text):
        return len(text) + sum(letter in GSM_TWICE for letter in text)
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def is_gsm(text: str) -> bool:
    return GSM.union(GSM_TWICE).issuperset(text)


def sms_parts(text: str) -> int:
    """How many messages a text is sent as: 160 places alone, 153 each of several; 70 and 67 in UCS-2."""
    one, each = (160, 153) if is_gsm(text) else (70, 67)
    length = sms_length(text)
    return 1 if length <= one else -(-length // each)


def fit_sms(text: str, parts: int = SMS_PARTS, *, end: str = "") -> str:
    """The text in at most so many parts, cut at a word; of its `end`, which follows in any case, nothing is cut, unless
    it is too long by itself."""
    text, end = " ".join(text.split()), " ".join(end.split())
    whole = f"{text} {end}" if text and end else text + end
    if sms_parts(whole) <= parts:
        return whole
    one, each, mark = (160, 153, "...") if is_gsm(whole) else (70, 67, "…")
    tail = f" {end}" if end else ""
    room = (one if parts == 1 else parts * each) - sms_length(tail)
    if end and room <= len(mark):
        return fit_sms(end, parts)
    return cut(text, room, sms_length, mark) + tail
