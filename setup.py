"""What pyproject.toml cannot say: the wheel holds recipes/ and evals/ inside the package, so that
`factory build smoke` works without a clone. `factory/shipped.py` looks in both."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["factory*", "lab*"]), "factory.recipes", "factory.evals"],
    package_dir={"factory.recipes": "recipes", "factory.evals": "evals"},
)
