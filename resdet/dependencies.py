"""Remedies for a missing package and for two OpenCV packages that break each other."""

import importlib
from importlib import metadata
from types import ModuleType

from resdet.errors import UserError

_PACKAGES = {
    "PIL": "pillow",
    "albumentations": "albumentations==2.0.8",
    "cv2": "opencv-python-headless",
    "yaml": "PyYAML",
}
"""Import name → name to install, where they differ or the version matters."""
_SAME_NAME = (
    *("filelock", "hotcoco", "matplotlib", "msgspec", "numpy", "pycocotools", "pydantic", "rich"),
    *("safetensors", "scipy", "tensorboard", "torch", "torchvision"),
)

_NO_MEMORY = ("failed to map segment", "cannot allocate memory")
"""What the loader of libraries reports."""

_OPENCVS = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)


def explain_import_error(error: ImportError) -> str | None:
    """What to install for an import that failed; None where it is not one of resdet's packages."""
    package = (error.name or "").split(".")[0]
    if any(words in str(error).lower() for words in _NO_MEMORY):
        return (
            f"a library can't be loaded ({error}): the process gets too little memory; raise its "
            "limit (`ulimit -v`, or that of the container)"
        )
    if package == "cv2" or "libGL" in str(error):
        return _opencv_remedy(f"OpenCV does not load ({error})")
    if not isinstance(error, ModuleNotFoundError) or package not in (*_PACKAGES, *_SAME_NAME):
        return None
    to_install = _PACKAGES.get(package, package)
    return (
        f"the package {package} is not installed; pip install {to_install}, or all of them with "
        "`pip install resdet` (in a checkout: `pip install -c constraints.txt -e .`)"
    )


def import_extra(module: str, extra: str, what: str) -> ModuleType:
    """A module of an optional package; UserError with the extra of resdet that installs it, for
    `what`, which needs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".")[0]
        is_absent = isinstance(error, ModuleNotFoundError) and error.name == package
        problem = "is not installed" if is_absent else f"does not load ({error})"
        raise UserError(
            f"{what} needs the package {package}, which {problem}; pip install 'resdet[{extra}]'"
        ) from error


def check_opencv() -> None:
    """UserError for a cv2 that imports and is empty.

    opencv-python and opencv-python-headless share their files: the last one installed wins, and
    removing one leaves a cv2 folder without the library.
    """
    import cv2

    if not hasattr(cv2, "imread") or not hasattr(cv2, "warpAffine"):
        raise UserError(_opencv_remedy("OpenCV is broken: cv2 imports, but it is empty"))


def _opencv_remedy(what: str) -> str:
    installed = [name for name in _OPENCVS if _is_installed(name)]
    pair = f"; {' and '.join(installed)} share the same files" if len(installed) > 1 else ""
    return (
        f"{what}{pair}. Run: pip uninstall -y {' '.join(installed) or 'opencv-python-headless'} "
        f"&& pip install opencv-python-headless"
    )


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
