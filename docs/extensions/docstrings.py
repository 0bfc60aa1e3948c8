"""Renders parts of a Keras-style docstring that Google style does not know."""

import re

import griffe

# A paragraph heading such as "Input shape: `(..., event_size)`."
HEADING = re.compile(
    r"^(Input shape|Output shape|Example|References):", re.MULTILINE
)
# A run of lines that starts with a prompt and ends at a blank line.
DOCTEST = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Fences doctests, and makes headings of sections around the known ones."""

    def on_instance(self, *, obj, **kwargs):
        if obj.is_alias or obj.docstring is None:
            return
        text = obj.docstring.value.replace(
            "Call arguments:\n", "Other Parameters: Call arguments\n"
        )
        text = re.sub(
            r"^References:\n((?:  .*\n?)+)", _dedented, text, flags=re.MULTILINE
        )
        text = HEADING.sub(r"**\1**:", text)
        obj.docstring.value = DOCTEST.sub(r"```pycon\n\g<0>\n```", text)


def _dedented(match):
    lines = [line.strip() for line in match[1].splitlines()]
    return "References:\n" + "\n".join(lines) + "\n"
