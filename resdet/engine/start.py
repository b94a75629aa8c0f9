"""Training: the one function for the commands and for Python."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from resdet import hardware
from resdet.config.loading import AnyConfig, Schema, override_config
from resdet.data.workers import leave_unguarded_script
from resdet.engine import distributed
from resdet.engine.check import check_run
from resdet.engine.log import start_console
from resdet.engine.lr_find import find_lr
from resdet.engine.run_folder import choose_folder, has_begun
from resdet.engine.seeds import SEEDS_FILE, train_seeds
from resdet.engine.signals import Stopped, stop_request
from resdet.engine.train import train_run
from resdet.errors import UserError
from resdet.factory.imports import check_arguments, import_modules, load_named_config


def train(
    config: str | Path | AnyConfig | None,
    overrides: Sequence[str] | None = None,
    *,
    run_dir: str | Path | None = None,
    resume: bool | Literal["auto"] = False,
    device: str | None = None,
    check: bool = False,
    strict: bool = False,
    imports: Sequence[str] | None = None,
    schema: Schema | None = None,
    lr_find: bool = False,
    seeds: int | None = None,
) -> Path:
    """Train a detector, localizer or classifier, by the config's `task`; returns the run folder.

    `config` is a YAML file or a parsed config; with `resume` it may be None for the run's own.
    `resume` "auto" starts a run if there is none yet. `overrides` are key=value. `check` counts the
    data, draws a batch, estimates memory and stops; `strict` makes every finding in the data an
    error. `imports` are modules of your own (`resdet.factory.imports`) beside those of `config`.
    `schema` accepts runs of some tasks only. `lr_find` suggests a learning rate and stops. `seeds`
    trains so many runs in seed_0, seed_1 … below the run folder.
    Raises UserError for what the user can fix, and `Stopped` (a SystemExit) after a SIGTERM,
    SIGINT or SIGHUP, once the state has been saved; one that comes during the report ends that.
    """
    overrides = check_arguments(config, overrides)
    if check + lr_find + (seeds is not None) > 1 or (resume and lr_find):
        raise UserError("check, lr_find and seeds exclude each other, and lr_find resumes nothing")
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
        if resume == "auto":
            resume = has_begun(folder, processes)
        if lr_find:
            return find_lr(config, folder, processes=processes, strict=strict)
        has_seeds = seeds is not None or (resume and (folder / SEEDS_FILE).is_file())
        run: Callable[..., Path] = partial(train_seeds, count=seeds) if has_seeds else train_run
        with stop_request() as stop:
            done = run(
                config,
                folder,
                processes,
                resume=resume,
                overrides=overrides,
                strict=strict,
                schema=schema,
            )
            # after the last step: the run is complete, but what is to follow it shall not start
            if stop:
                raise Stopped(stop.exit_code)
        return done
