"""The two prompts of Appendix B of the SToICaL paper, as it prints them."""

from __future__ import annotations

from stoical.data.rows import Doc

# Appendix B.1 as the paper prints it: lines wrapped, underscores escaped.
B1 = r"""
You are a helpful assistant that can answer questions about WordNet. You are given a noun synset from WordNet and a
set of hypernyms for that synset. The hypernyms are separated by the delimiter '||'. Your task is to output the most
specific hypernym for the synset out of the given set of hypernyms.

Synset: deer.n.01

Hypernyms: object.n.01 || whole.n.02 || chordate.n.01
|| physical\_entity.n.01 || mammal.n.01 || ruminant.n.01
|| vertebrate.n.01 || placental.n.01 || ungulate.n.01 ||
even-toed\_ungulate.n.01 || animal.n.01 || entity.n.01 ||
living\_thing.n.01 || organism.n.01

Most specific hypernym:
"""
B1_DOCS = [
    *("object.n.01", "whole.n.02", "chordate.n.01", "physical_entity.n.01", "mammal.n.01", "ruminant.n.01"),
    *("vertebrate.n.01", "placental.n.01", "ungulate.n.01", "even-toed_ungulate.n.01", "animal.n.01", "entity.n.01"),
    *("living_thing.n.01", "organism.n.01"),
]

# Appendix B.2, with the first, the tenth and the twelfth of its thirteen products.
B2 = """
You are a helpful assistant that can answer questions about the ESCI shopping queries dataset. You are given a query
and a list of product titles for that query. Each product title is preceded by its docID in square brackets, and the
product titles are separated by the delimiter '||'. Your task is to generate the docID of the most relevant product
title to the query out of the given set of product titles and their docIDs.

Query: aukey usb c

Product titles: [25,36,39] Syntech USB C to USB Adapter, 2 Pack USB C to USB3 Adapter, USB Type C to USB, Thunderbolt 3
to USB Female Adapter OTG Cable || [36,25,31] USB C Cable, 2Pack 3ft 5ft || [25,36,45] AUKEY USB C Adapter, [3 Pack] USB
C to USB 3.0 Adapter Compatible with MacBook Pro 2017/2016, Google Chromebook Pixelbook, Samsung Galaxy S9 S8 S8+ Note8,
Google Pixel 2/2XL - Black

Most relevant product title:
"""
B2_DOCS = [
    Doc(
        "[25,36,39]",
        "Syntech USB C to USB Adapter, 2 Pack USB C to USB3 Adapter, USB Type C to USB, Thunderbolt 3 to USB Female "
        "Adapter OTG Cable",
    ),
    Doc("[36,25,31]", "USB C Cable, 2Pack 3ft 5ft"),
    Doc(
        "[25,36,45]",
        "AUKEY USB C Adapter, [3 Pack] USB C to USB 3.0 Adapter Compatible with MacBook Pro 2017/2016, Google "
        "Chromebook Pixelbook, Samsung Galaxy S9 S8 S8+ Note8, Google Pixel 2/2XL - Black",
    ),
]


def unwrapped(printed: str) -> str:
    """What the paper's page stands for: wrapped lines joined, `\\_` as `_`, a blank line between paragraphs."""
    paragraphs = printed.strip().replace(r"\_", "_").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split("\n")) for paragraph in paragraphs)
