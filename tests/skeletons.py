"""Texts that would be more than text where nobody escapes them, and what a browser makes of a page."""

from html.parser import HTMLParser

HOSTILE = (
    'x" onload="alert(1)" y="',
    "'><script>alert(1)</script><img src=x onerror=alert(2)>",
    "</title></svg></figure><!-- ",
    "a | b \\| c \n| d | e |",
    "[a](javascript:alert(1)) ![b](http://c) [d]: http://e",
    "&lt;b&gt; & <b>",
    "$\\frac$ and ${x$",
    "{{ 7 * 7 }} {% raw %}",
    "half of an emoji: \ud83d",
)


class _Skeleton(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, ...]] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, *(key for key, _ in attrs)))


def tags(page: str) -> list[tuple[str, ...]]:
    """Return the tags of a page, each with the names of its attributes."""
    return _Skeleton(page).tags
