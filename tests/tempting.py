"""A user's folder full of files that Python would like to import."""

from pathlib import Path

NAMES = (
    "torch", "numpy", "yaml", "transformers", "pydantic", "datasets", "accelerate", "trl", "sympy",
    "lm_eval", "vllm", "ray", "math_verify", "reasoning_gym", "typer", "rich", "regex", "psutil",
    "json", "signal", "socket", "struct", "selectors", "multiprocessing", "subprocess", "tempfile",
    "sitecustomize", "usercustomize", "conftest", "pip",
)  # fmt: skip
PACKAGES = ("factory", "tokenizers", "safetensors")


def tempting(folder: Path) -> Path:
    """Fill a folder; the file that exists once any of its own has been run, its names one a line.

    What runs goes on as an empty module.
    """
    ran = folder.absolute().with_name(f"{folder.name}-ran")
    code = f"with open({str(ran)!r}, 'a') as _file:\n    _file.write(__name__ + '\\n')\n"
    folder.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        (folder / f"{name}.py").write_text(code, encoding="utf-8")
    for name in PACKAGES:
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(code, encoding="utf-8")
    return ran
