"""What is installed, and how it runs: from a wheel in another folder, editable, and from a checkout as it is.

The virtual environments are empty but for a line that shows them where this one's packages are. That does not show them
a stoical that is installed here in editable mode: it would come by a .pth file, and of those only their own count.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from tests.support.root import ROOT

HOMES = {"stoical": "stoical"} | {name: f"stoical/{name}" for name in ("accelerate_configs", "data_prep", "recipes")}
"""Folder of the checkout -> where the wheel has it."""
BUILD = "import sys, setuptools.build_meta as backend; getattr(backend, f'build_{sys.argv[1]}')(sys.argv[2])"
"""What pip and build run, without the processes around it."""
MAMMALS = ("subtree=mammal.n.01", "test_size=20")


def run(*words: str | Path, cwd: Path, **env: str) -> str:
    """What a command that must succeed prints."""
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    offline = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    command = [str(word) for word in words]
    done = subprocess.run(command, cwd=cwd, env=clean | offline | env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def environment(directory: Path, *install: str | Path) -> Path:
    """A virtual environment that sees the packages of this one, and what is installed into it; its bin."""
    venv.create(directory, symlinks=True)
    (packages,) = directory.glob("lib/python*/site-packages")
    seen = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    (packages / "seen.pth").write_text("\n".join(seen) + "\n")
    if install:
        pip = [directory / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-compile"]
        run(*pip, "--no-deps", "--no-index", "--no-build-isolation", *install, cwd=directory)
    return directory / "bin"


def files(directory: Path) -> list[Path]:
    found = [path.relative_to(directory) for path in directory.rglob("*") if path.is_file()]
    return [path for path in found if "__pycache__" not in path.parts]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what packaging reads, as building writes beside it."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in HOMES:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built of the source distribution as an index would have it."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-c", BUILD, "sdist", out, cwd=checkout)
    (source,) = out.glob("*.tar.gz")
    with tarfile.open(source) as file:
        file.extractall(out, filter="data")
    run(sys.executable, "-c", BUILD, "wheel", out, cwd=out / source.name.removesuffix(".tar.gz"))
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(checkout: Path, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        held = set(file.namelist())
    info = {name for name in held if name.partition("/")[0].endswith(".dist-info")}
    assert held - info == {
        f"{home}/{path.as_posix()}" for folder, home in HOMES.items() for path in files(checkout / folder)
    }
    licences = {name.rpartition("/")[2] for name in info if "/licenses/" in name}
    assert licences == {"LICENSE", "WORDNET_LICENSE", "ESCI_LICENSE"}


SMALLER = "hidden_size=16 intermediate_size=32 num_hidden_layers=1 num_attention_heads=2 num_key_value_heads=2"
COMMANDS = [
    ["train", "recipe=wordnet_alpha2,small,./own.yaml", "global_batch_size=2", "eval.num_queries=4", "output=run"]
    + [f"model.config.{setting}" for setting in SMALLER.split()],
    ["evaluate", "checkpoint=run", "eval.num_queries=4"],
    ["rank", "checkpoint=run", "input=in.jsonl", "output=out.jsonl"],
]
UNUSED = {"nltk", "sentence_transformers", "sklearn", "trl", "wandb"}
ONE_PROCESS = f"""
import sys, stoical
from stoical.commands.main import main
for words in {COMMANDS}:
    assert main(words) == 0, words
    assert words[0] != "train" or "matplotlib" not in sys.modules
assert not {UNUSED} & sys.modules.keys(), {UNUSED} & sys.modules.keys()
print(stoical.__file__)
"""
"""Three commands with one import of torch and transformers between them."""


def test_an_installed_stoical_works_from_another_folder(wheel: Path, tmp_path: Path) -> None:
    bin, here, cache = environment(tmp_path / "venv", wheel), tmp_path / "elsewhere", str(tmp_path / "cache")
    (here / "data_prep").mkdir(parents=True)
    (here / "data_prep" / "__init__.py").write_text("raise SystemExit('a folder of the user')")
    (here / "own.yaml").write_text("# mine\ntraining: {max_steps: 2, per_device_train_batch_size: 2}\n")
    (here / "in.jsonl").write_text('{"query": "deer.n.01", "docs": ["ruminant.n.01", "mammal.n.01"]}\n')
    assert run(bin / "stoical", "--version", cwd=here).startswith("stoical ")
    run(bin / "python", "-m", "stoical", "prepare", "wordnet", *MAMMALS, cwd=here)
    run(bin / "stoical", "validate", "data/wordnet", cwd=here)
    shown = run(bin / "stoical", "recipes", "show", "wordnet_alpha2,small,./own.yaml", cwd=here).splitlines()
    assert any(line.strip().startswith("max_steps: 2 ") and "own.yaml" in line for line in shown)
    said = run(bin / "python", "-c", ONE_PROCESS, cwd=here, HF_HOME=cache)
    assert said.splitlines()[-1].startswith(str(tmp_path / "venv"))
    assert (here / "run" / "eval_4" / "metrics.json").is_file()
    ranked = json.loads((here / "out.jsonl").read_text())
    assert {each["docid"] for each in ranked["results"]} == {"ruminant.n.01", "mammal.n.01"}


def test_an_editable_stoical_works_from_another_folder(checkout: Path, tmp_path: Path) -> None:
    bin = environment(tmp_path / "venv", "--editable", checkout)
    run(bin / "stoical", "prepare", "wordnet", *MAMMALS, "out=data", cwd=tmp_path)
    assert (tmp_path / "data" / "train.parquet").is_file()
    assert f"Recipes ({checkout / 'recipes'}):" in run(bin / "stoical", "recipes", cwd=tmp_path)


def test_a_checkout_works_without_installation(tmp_path: Path) -> None:
    python = environment(tmp_path / "venv") / "python"
    for name, command in {"one": ["stoical", "prepare", "wordnet"], "two": ["data_prep.wordnet"]}.items():
        run(python, "-m", *command, *MAMMALS, f"out={tmp_path / name}", cwd=ROOT)
        assert (tmp_path / name / "train.parquet").is_file()
    for script in ("train.py", "evaluate.py"):
        assert "stoical recipes show" in run(python, script, "--help", cwd=ROOT)
