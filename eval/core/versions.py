"""Which versions answer: they stand in every run folder, and in `--version`."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

# What pip calls this package. `debias` on PyPI is another project.
DISTRIBUTION = "attention-debiasing"


def of(package: str) -> str:
    """The version that is installed; `source` where a package is used without installation."""
    try:
        return version(DISTRIBUTION if package == "debias" else package)
    except PackageNotFoundError:
        return "source"


def versions() -> dict[str, str]:
    """The versions of the packages that decide the numbers."""
    return {package: of(package) for package in ("debias", "torch", "transformers")}
