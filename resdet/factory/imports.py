"""The user's own modules: `imports: [my_module]` of a config that the user names, or `--imports`.

Importing a module registers what it adds: backbones by `@register_backbone`, rows of READERS,
METRICS and BRANCHES. Only names that the user gives in this call are imported; those stored in a
checkpoint or in RUN/config.yaml are data and never run code.
"""

import importlib
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from resdet.config.loading import AnyConfig, Schema, load_any_config, load_config
from resdet.errors import NotRegistered, UserError, is_texts


def import_modules(names: Sequence[str] | None, folder: str | Path | None = None) -> None:
    """Import modules found in `folder` (the config's), the current folder or on `sys.path`.

    Both folders stay on the path, where loader processes look for the modules too. UserError for a
    module that is missing or raises.
    """
    if not names:
        return
    if not is_texts(names):
        raise UserError(f"imports is {names!r:.60}; give a list of names, such as ['my_module']")
    for place in [Path.cwd(), *([] if folder is None else [Path(folder).resolve()])]:
        if str(place) not in sys.path:
            sys.path.insert(0, str(place))
    importlib.invalidate_caches()
    for name in names:
        try:
            importlib.import_module(name)
        except UserError as error:
            raise UserError(f"imports: {name}: {error}") from error
        except (Exception, SystemExit) as error:
            raise UserError(f"imports: {name}: {_what_failed(name, error)}") from error


def load_named_config(
    path: str | Path, overrides: Sequence[str] = (), schema: Schema | None = None
) -> AnyConfig:
    """The config that a user names, with its modules imported; `schema` None takes any task."""
    config: AnyConfig
    if schema is None:
        config = load_any_config(path, overrides)
    else:
        config = load_config(path, overrides, schema=schema)
    import_modules(config.imports, Path(path).parent)
    return config


def check_arguments(config: object, overrides: Sequence[str] | None) -> Sequence[str]:
    """The overrides, () for None; UserError for arguments of the Python API that are of another
    type: `config` is a file or a config, or None to resume a run."""
    if config is not None and not isinstance(config, str | Path | AnyConfig):
        raise UserError(f"config is {config!r:.60}; give a YAML file or the name of a config")
    overrides = () if overrides is None else overrides
    if not is_texts(overrides):
        raise UserError(
            f"overrides is {overrides!r:.60}; give a list of key=value, such as ['optim.lr=0.01']"
        )
    return overrides


@contextmanager
def naming_imports(config: AnyConfig) -> Iterator[None]:
    """Add to a name's error which modules of a stored config were not imported."""
    try:
        yield
    except NotRegistered as error:
        absent = [name for name in config.imports if name not in sys.modules]
        if not absent:
            raise
        raise UserError(
            f"{error}. The config lists imports {', '.join(absent)}, which a checkpoint or run "
            f"never imports by itself; pass --imports {','.join(absent)} "
            f"(in Python: imports={absent})"
        ) from error


def _what_failed(name: str, error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
        return (
            f"no module {error.name!r} beside the config, in {Path.cwd()} or on PYTHONPATH; "
            "move it there or correct the name"
        )
    last = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{last.filename}, line {last.lineno}"
    return f"{type(error).__name__}: {error} ({where}); fix the module"
