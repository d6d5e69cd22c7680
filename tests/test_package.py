"""What a stranger gets who installs the package."""

import importlib.metadata
import importlib.resources
import subprocess
import sys

import plant_faults
import pytest

NEW_MODULES = """
import sys
import keras, tensorflow
before = set(sys.modules)
import tf_blocknorm
print("\\n".join(set(sys.modules) - before))
"""


def test_importing_the_package_imports_nothing_of_an_extra():
    # Keras itself imports some of these where they are installed: only what is new counts.
    done = subprocess.run(
        [sys.executable, "-c", NEW_MODULES], capture_output=True, text=True, check=True
    )
    new = done.stdout.split()
    assert "tf_blocknorm.optimizers" in new
    extras = ("matplotlib", "sklearn", "rich", "jax", "torch", "tf_blocknorm.experiments")
    assert [name for name in new if name.startswith(extras)] == []


def test_type_information_is_installed():
    assert importlib.resources.files("tf_blocknorm").joinpath("py.typed").is_file()


def test_console_script():
    (script,) = (
        entry
        for entry in importlib.metadata.entry_points(group="console_scripts")
        if entry.name == "tf-blocknorm"
    )
    assert callable(script.load())


@pytest.mark.parametrize("extra", ["experiments", "jax", "torch", "test", "docs", "benchmark"])
def test_extra_is_declared(extra):
    assert extra in importlib.metadata.metadata("tf_blocknorm").get_all("Provides-Extra")


@pytest.mark.parametrize("fault", plant_faults.FAULTS, ids=lambda fault: fault[0])
def test_every_fault_has_its_place(fault):
    _, file, text, replacement, _ = fault
    assert (plant_faults.ROOT / file).read_text().count(text) == 1
    assert text != replacement
