"""Media types, and the headers that keep an answer to what it is for."""

HTML, TEXT = "text/html; charset=utf-8", "text/plain; charset=utf-8"
JSON, NDJSON = "application/json", "application/x-ndjson"
CSS, SCRIPT = "text/css; charset=utf-8", "text/javascript; charset=utf-8"
PAGE_HEADERS = {
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; "
        "img-src 'self' https: http: data:; base-uri 'none'; form-action 'none'"
    ),
}
PART_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src https: http:",
}
MESSAGE_HEADERS = {"Vary": "Accept", **PART_HEADERS}
WIDGET_HEADERS = {  # a page of any shop may load it, without cookies too, and need not ask for it on each of its pages
    "Cache-Control": "public, max-age=3600",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "cross-origin",
    "Access-Control-Allow-Origin": "*",
    "Content-Security-Policy": "default-src 'none'",
}
REPLY_HEADERS = {  # of pages that a message leads to
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Robots-Tag": "noindex, nofollow",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
}
REDIRECT_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Robots-Tag": "noindex, nofollow",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'",
}
