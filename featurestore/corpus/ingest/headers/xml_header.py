"""XML in the headers of recordings, read without believing it: no entities, no document types, bounded in size."""

from __future__ import annotations

import xml.etree.ElementTree as ET

MAX_LETTERS = 1 << 16
"""Headers are padded to 2,048 or 5,000 bytes; parsing takes some 20 times the text in memory."""


class XmlError(ValueError):
    """The text is no XML that a recorder writes; the message is a phrase."""


def parse_xml(text: str) -> ET.Element:
    """The root element.

    Raises:
        XmlError: when the text is damaged, longer than a header, or declares entities (what "billion laughs" grows from).
    """
    if len(text) > MAX_LETTERS:
        raise XmlError(f"is {len(text):,} letters long, more than {MAX_LETTERS:,}")
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise XmlError("declares a document type, which no recorder does")
    body = text.split("?>", 1)[1] if text.lstrip().startswith("<?xml") and "?>" in text else text  # its encoding is done with
    try:
        return ET.fromstring(body.strip())  # noqa: S314 - nothing can be declared in it
    except (ET.ParseError, ValueError) as error:
        raise XmlError(f"is not well-formed ({error})") from error
