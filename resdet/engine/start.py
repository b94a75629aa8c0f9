"""Training: the one function for the commands and for Python."""

from collections.abc import Sequence
from pathlib import Path

from resdet import hardware
from resdet.config.loading import AnyConfig, Schema, override_config
from resdet.data.workers import leave_unguarded_script
from resdet.engine import distributed
from resdet.engine.check import check_run
from resdet.engine.log import start_console
from resdet.engine.run_folder import choose_folder
from resdet.engine.train import train_run
from resdet.factory.imports import check_arguments, import_modules, load_named_config


def train(
    config: str | Path | AnyConfig | None,
    overrides: Sequence[str] | None = None,
    *,
    run_dir: str | Path | None = None,
    resume: bool = False,
    device: str | None = None,
    check: bool = False,
    strict: bool = False,
    imports: Sequence[str] | None = None,
    schema: Schema | None = None,
) -> Path:
    """Train a detector, localizer or classifier, by the config's `task`; returns the run folder.

    `config` is a YAML file or a parsed config; with `resume` it may be None, and the run's own
    config is used. `overrides` are key=value. `check` counts the data, draws a batch, estimates
    memory and stops; `strict` makes every finding in the data an error. `imports` are modules of
    your own, see `resdet.factory.imports`; those that `config` lists are imported as well. `schema`
    accepts runs of some tasks only.
    Raises UserError for what the user can fix, and `Stopped` (a SystemExit) after a SIGTERM,
    SIGINT or SIGHUP, once the state has been saved.
    """
    overrides = check_arguments(config, overrides)
    leave_unguarded_script()
    with hardware.settings_restored(), distributed.joined(device) as processes:
        start_console(processes.is_main)
        import_modules(imports)
        folder = choose_folder(config, run_dir)
        if isinstance(config, str | Path):
            config, overrides = load_named_config(config, overrides, schema), ()
        elif config is not None:
            import_modules(config.imports)
            config, overrides = override_config(config, overrides, "train(overrides=…)"), ()
        if check:
            return check_run(config, folder, processes=processes, strict=strict)
        return train_run(
            config,
            folder,
            processes,
            resume=resume,
            overrides=overrides,
            strict=strict,
            schema=schema,
        )
