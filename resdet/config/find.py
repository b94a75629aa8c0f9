"""Finds and reads a config: a path, or the name of a config that is included in the package."""

import difflib
import logging
import os
from pathlib import Path

from resdet.config.strict_yaml import ConfigError
from resdet.files.exported import is_exported, needs_run

CHECKPOINTS = (".pt", ".pth", ".ckpt", ".safetensors")
"""Suffixes of files that are given in place of a config."""
MAX_SIZE = 16 << 20
"""Bytes of a config file."""

LOG = logging.getLogger("resdet")


def shipped_configs() -> Path:
    """The folder of the shipped configs: inside an installed package, or in the checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "_configs"
    return inside if inside.is_dir() else package.parent / "configs"


def find_config(path: str | Path) -> Path:
    """The file meant by a path or by a shipped config's name, such as `demo_nuclei`.

    `configs/x.yaml` falls back to the shipped file where the working folder has none of that name.
    Raises ConfigError with the near file names.
    """
    given = own_path(path)
    if is_file(given):
        return given
    shipped = find_shipped(given)
    if shipped is None:
        raise ConfigError(_not_found(given))
    if given.suffix:
        LOG.info("%s does not exist; using the included %s", given, shown(shipped))
    return shipped


def own_path(path: str | Path) -> Path:
    """With the home folder in place of ~; of a user who does not exist it stays."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def is_file(path: Path) -> bool:
    """False also for a name that no file can have, such as one that is too long."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def holds_run(given: str | Path) -> bool:
    """Whether this is a run folder, or a checkpoint by its suffix."""
    path = own_path(given)
    if is_file(path):
        return path.suffix in CHECKPOINTS
    return any(is_file(path / name) for name in ("best.pt", "last.pt", "config.yaml"))


def find_shipped(path: Path) -> Path | None:
    """The shipped config that `x`, `x.yaml` or `configs/x.yaml` names, or None."""
    shipped = shipped_configs() / _with_suffix(path.name)
    in_configs = path.parent.as_posix() in (".", "configs")
    return shipped if in_configs and is_file(shipped) else None


def shown(path: Path) -> str:
    """A path as messages name it: relative to the working folder where it is below that."""
    # realpath takes links that lead to themselves
    resolved = Path(os.path.realpath(path))
    try:
        return resolved.relative_to(Path.cwd()).as_posix()
    except ValueError:
        return resolved.as_posix()


def read_text(path: Path) -> str:
    """The text of a config file; raises ConfigError for what can't be one."""
    if path.suffix.lower() in CHECKPOINTS:
        raise ConfigError(
            f"{shown(path)}: is a checkpoint, a config is a YAML file; to continue a run give "
            "--resume --run-dir FOLDER"
        )
    if is_exported(path):
        raise ConfigError(needs_run(shown(path)))
    try:
        if path.stat().st_size > MAX_SIZE:
            raise ConfigError(
                f"{shown(path)}: has more than {MAX_SIZE >> 20} MB, which no config has; give a "
                "YAML file"
            )
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = 1 + error.object[: error.start].count(b"\n")
        raise ConfigError(
            f"{shown(path)}, line {line}: not UTF-8 text ({error.reason}); save the file as UTF-8"
        ) from None
    except OSError as error:
        raise ConfigError(f"{shown(path)}: cannot be read: {error.strerror}") from None


def _with_suffix(name: str) -> str:
    return name if name.endswith((".yaml", ".yml")) else f"{name}.yaml"


def _not_found(given: Path) -> str:
    try:
        is_folder = given.is_dir()
        folders = [folder for folder in (given.parent, shipped_configs()) if folder.is_dir()]
    except (OSError, ValueError) as error:
        return f"{given}: no file can have this name ({error}); give a YAML file"
    if is_folder:
        reason = "is a folder, a config is a YAML file"
    else:
        reason = "no such config file"
    if is_file(given / "config.yaml"):
        return (
            f"{given}: is a run folder; give {given / 'config.yaml'} for another run with its "
            f"settings, or --resume --run-dir {given} to continue it"
        )
    near: list[str] = []
    for folder in folders:
        if not near:
            names = sorted(file.name for file in folder.glob("*.y*ml"))
            near = [
                shown(folder / n)
                for n in difflib.get_close_matches(_with_suffix(given.name), names, 3)
            ]
    if near:
        return f"{given}: {reason}, did you mean {' or '.join(near)}?"
    return f"{given}: {reason}; the shipped ones are in {shown(shipped_configs())}"
