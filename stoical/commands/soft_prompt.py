"""Train soft prompts that make a frozen language model write exactly the texts that you give, one prompt a text.

  stoical soft-prompt model.name=NAME target="London is the capital of England" [key=value ...]
  stoical soft-prompt model.name=NAME targets=FILE [recipe=combined] [key=value ...]
  stoical soft-prompt model.name=glosses targets=FILE      without a hub: a small model is trained first

NAME is a causal language model on the hub, or a directory. The prompts of all targets train side by side, and each
becomes a checkpoint of plain peft in output/prompts: put before BOS, it writes its text with `generate`, first token,
EOS and all. What counts is that, never the accuracy after the target's own tokens. An interrupted run goes on when the
same command is given again. recipe= begins with the settings of a file in recipes/soft_prompts, or of your own.
docs/soft_prompts.md has objectives, decoders and what was measured.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from stoical.commands.shell import AGAIN, Command, Given, quiet_libraries
from stoical.common.arguments import parse_options
from stoical.common.differences import flat
from stoical.common.fields import unknown
from stoical.common.files import check_writable
from stoical.common.options import value_words
from stoical.common.places import shipped
from stoical.config.loading import list_recipes, read_layer
from stoical.soft_prompts.settings import SoftPromptSettings, parse_decoders
from stoical.soft_prompts.texts import read_texts

SHOWN = 40  # characters of a text in the table


def run(given: Given) -> None:
    """Train, export and report."""
    settings, names = with_recipe(given)
    settings.check(names)
    texts = read_texts(settings)
    output = Path(settings.output)
    check_writable(output)
    from stoical.runs.lock import only_run
    from stoical.soft_prompts.run import carry_out, open_model

    quiet_libraries()
    frozen = open_model(settings)
    with only_run(output):
        results = carry_out(settings, texts, frozen, output)
    print("\n".join(report(results, parse_decoders(settings.decoders))))
    print(f"written to {output}: prompts/ are checkpoints of peft, results.json has all of this")


def with_recipe(given: Given) -> tuple[SoftPromptSettings, set[str]]:
    """The settings of `recipe=`, under those of the command line, and the names of all that were given in either."""
    if given.options.recipe is None:
        return given.options, set(given.names)
    values = flat(OmegaConf.to_container(read_layer(recipe_file(given.options.recipe))[1]))
    try:
        settings = parse_options(SoftPromptSettings, {key: value_words(value) for key, value in values.items()})
    except ValueError as error:
        raise ValueError(f"recipe={given.options.recipe}: {error}") from error
    for name in given.names:
        section, _, key = name.rpartition(".")
        below, above = (getattr(each, section) if section else each for each in (settings, given.options))
        setattr(below, key, getattr(above, key))
    return settings, {*values, *given.names}


def recipe_file(name: str) -> Path:
    """The file of a recipe: a name out of recipes/soft_prompts, or a path. Raises `ValueError` where there is none."""
    if name.endswith(".yaml") or "/" in name:
        if not Path(name).is_file():
            raise ValueError(f"recipe={name}: there is no such file")
        return Path(name)
    if name not in (known := list_recipes("soft_prompts")):
        raise unknown("recipe", name, known, f" Use {', '.join(known)}, or a file of your own.")
    return shipped("recipes") / "soft_prompts" / f"{name}.yaml"


def report(results: dict[str, Any], decoders: list[str]) -> list[str]:
    """What to print: a line a target, and how many are exact by each decoder."""
    from stoical.reporting.tables import markdown

    rows, body = results["targets"], [["target", "tokens", "found at step", "exact", "written"]]
    for row in rows:
        step = "-" if row["found_at_step"] is None else str(row["found_at_step"])
        words = ["yes" if row["exact"] else f"{row['right_tokens']} tokens", _cut(row["written"])]
        body.append([_cut(row["target"]), str(row["tokens"]), step, *words])
    counts = {name: sum(row["decoders"][name]["exact"] for row in rows) for name in decoders}
    told = ", ".join(f"{name} {count}" for name, count in counts.items())
    plain = sum(row["exact"] for row in rows)
    return [
        markdown(body),
        f"exact, of {len(rows)}: {plain} by peft alone, one at a time; {told}",
        "the frozen weights are unchanged, bit for bit",
    ]


def _cut(text: str) -> str:
    flattened = " ".join(text.split())
    return flattened if len(flattened) <= SHOWN else f"{flattened[: SHOWN - 3]}..."


main = Command(str(__doc__), run, SoftPromptSettings, goes_on=AGAIN)
