"""What pyproject.toml cannot say: the wheel holds recipes/, evals/ and constraints.txt inside the
package, so that `factory build smoke` and `factory setup` work without a clone.
`factory/core/shipped.py` looks in both places."""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py


class BuildWithConstraints(build_py):
    """Adds the one file that is not in a folder of its own."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            shutil.copy("constraints.txt", Path(self.build_lib) / "factory" / "constraints.txt")


setup(
    packages=[*find_packages(include=["factory*", "lab*"]), "factory.recipes", "factory.evals"],
    package_dir={"factory.recipes": "recipes", "factory.evals": "evals"},
    cmdclass={"build_py": BuildWithConstraints},
)
