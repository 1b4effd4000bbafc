"""A page as a browser without scripts sees it, and what has to be true of every one of them."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import urlsplit

#: Elements that have no end tag.
VOID = frozenset({"br", "hr", "img", "input", "link", "meta"})
#: Elements of pictures that we write without an end tag.
CLOSED = frozenset({"rect", "line", "path", "use"})
FIELDS = frozenset({"input", "select", "textarea"})
#: What a page may weigh. A list of servers and a launch with its output are the largest.
LARGEST_BYTES = 32 * 1024


@dataclass(eq=False)
class Element:
    """A node of the tree."""

    tag: str
    attributes: dict[str, str]
    parent: Element | None = None
    children: list[Element | str] = field(default_factory=list)

    def __iter__(self) -> Iterator[Element]:
        """Everything inside it, in order."""
        for child in self.children:
            if isinstance(child, Element):
                yield child
                yield from child

    def all(self, tag: str, **attributes: str) -> list[Element]:
        """Elements inside it with this tag and these attributes; ``class_`` is one of the words."""
        return [
            each
            for each in self
            if (not tag or each.tag == tag)
            and all(
                value in each.get("class").split() if name == "class_" else each.get(name) == value
                for name, value in attributes.items()
            )
        ]

    def one(self, tag: str, **attributes: str) -> Element:
        """The only such element."""
        found = self.all(tag, **attributes)
        assert len(found) == 1, f"{len(found)} elements <{tag}> with {attributes}"
        return found[0]

    def get(self, name: str) -> str:
        """An attribute; empty where there is none."""
        return self.attributes.get(name, "")

    @property
    def text(self) -> str:
        """Its text as it is read, blanks folded."""
        return " ".join(self.raw.split())

    @property
    def raw(self) -> str:
        """Its text as it is."""
        return "".join(child if isinstance(child, str) else child.raw for child in self.children)


class _Builder(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = self._at = Element("", {})
        self.faults: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        self.faults += [f"<{tag}> has {n} twice" for n, c in Counter(names).items() if c > 1]
        made = Element(tag, {name: value or "" for name, value in attrs}, self._at)
        self._at.children.append(made)
        if tag not in VOID:
            self._at = made

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in CLOSED:
            self.faults.append(f"<{tag}/> is no element of a picture")
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._at.tag != tag or self._at.parent is None:
            self.faults.append(f"</{tag}> ends <{self._at.tag}>")
            return
        self._at = self._at.parent

    def handle_data(self, data: str) -> None:
        if self._at.tag in ("pre", "textarea") and not self._at.children:
            # The line end behind the tag is for whoever reads the source.
            data = data.removeprefix("\n")
        self._at.children.append(data)

    def close(self) -> None:
        super().close()
        if self._at is not self.root:
            self.faults.append(f"<{self._at.tag}> is not ended")


@dataclass
class Form:
    """A form as a browser would send it."""

    action: str
    method: str
    values: dict[str, str]


class Document:
    """A parsed page."""

    def __init__(self, text: str) -> None:
        builder = _Builder()
        builder.feed(text)
        builder.close()
        self.faults = builder.faults
        self.root = builder.root
        self.size = len(text.encode())

    @property
    def h1(self) -> str:
        return self.root.one("h1").text

    @property
    def text(self) -> str:
        """Everything between the header and the end."""
        return self.root.one("main").text

    def by_id(self, name: str) -> Element:
        return self.root.one("", id=name)

    def links(self) -> dict[str, str]:
        """Address by text."""
        return {each.text: each.get("href") for each in self.root.all("a")}

    def buttons(self) -> list[str]:
        """What can be pressed or followed as a button, but for what is on every page."""
        main = self.root.one("main")
        found = [*main.all("button"), *main.all("a", class_="button")]
        return [each.text for each in found]

    def form(self, button: str) -> Form:
        """The form that a button sends, with what its fields hold."""
        [pressed] = [each for each in self.root.all("button") if each.text == button]
        form = pressed.parent
        while form is not None and form.tag != "form":
            form = form.parent
        assert form is not None
        values = {}
        for each in form:
            if each.tag not in FIELDS or not each.get("name"):
                continue
            values[each.get("name")] = value_of(each)
        return Form(form.get("action"), form.get("method") or "get", values)

    def field(self, label: str) -> Element:
        """The field with a label that begins so."""
        [found] = [each for each in self.root.all("label") if each.text.startswith(label)]
        return self.by_id(found.get("for"))

    def check(self) -> None:
        """Everything that has to be true of any page of ours."""
        root = self.root
        assert self.faults == []
        assert root.one("html").get("lang") == "en"
        assert root.one("title").text
        assert root.one("h1").text
        ids = Counter(each.get("id") for each in root if each.get("id"))
        assert [name for name, number in ids.items() if number > 1] == [], "ids given twice"
        for each in root:
            self._check_element(each, set(ids))
        levels = [int(each.tag[1]) for each in root if each.tag in ("h1", "h2", "h3", "h4")]
        for before, after in itertools.pairwise(levels):
            assert after <= before + 1, f"a heading of level {after} follows one of {before}"

    def _check_element(self, each: Element, ids: set[str]) -> None:
        shown = f"<{each.tag} {each.attributes}>"
        for name in ("aria-describedby", "aria-labelledby", "list"):
            assert set(each.get(name).split()) <= ids, f"{shown}: nothing is called that"
        if each.tag == "label":
            assert each.get("for") in ids, f"{shown}: there is no such field"
        if each.tag in FIELDS and each.get("type") != "hidden":
            labels = [one.get("for") for one in self.root.all("label")]
            assert each.get("id") in labels, f"{shown}: without a label"
        if each.tag in ("a", "button", "summary", "th", "option"):
            assert each.text or each.get("value") == "", f"{shown}: says nothing"
        if each.tag == "a" and each.get("href").startswith("#"):
            assert each.get("href")[1:] in ids, f"{shown}: leads nowhere"
        if each.tag == "img":
            assert "alt" in each.attributes, f"{shown}: without words"
        if each.tag == "section" or (each.tag == "nav"):
            assert each.get("aria-labelledby") or each.get("aria-label"), f"{shown}: has no name"
        if each.tag == "script":
            assert not each.raw, "scripts are in our file"
        assert each.tag not in ("style", "iframe", "object"), shown
        assert "style" not in each.attributes, f"{shown}: styles are in our file"
        assert [name for name in each.attributes if name.startswith("on")] == [], shown
        for name in ("href", "src", "action"):
            parts = urlsplit(each.get(name))
            assert parts.scheme in ("", "http", "https"), f"{shown}: an odd address"
            if each.tag != "a":
                assert not parts.netloc, f"{shown}: from elsewhere"


def value_of(element: Element) -> str:
    """What a field would send."""
    if element.tag == "select":
        options = element.all("option")
        chosen = [each for each in options if "selected" in each.attributes] or options[:1]
        if not chosen:
            return ""
        option = chosen[0]
        return option.get("value") if "value" in option.attributes else option.text
    if element.tag == "textarea":
        return element.raw
    return element.get("value")
