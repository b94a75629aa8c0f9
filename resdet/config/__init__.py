"""The config: `schema` holds every option and default, `loading` fills it from YAML."""

from resdet.config.loading import (
    AnyConfig,
    ConfigError,
    config_from_dict,
    config_to_dict,
    diff_configs,
    dump_yaml,
    load_any_config,
    load_config,
    override_config,
)
from resdet.config.schema import Config
from resdet.config.schema_cls import ClsConfig

__all__ = [
    "AnyConfig",
    "ClsConfig",
    "Config",
    "ConfigError",
    "config_from_dict",
    "config_to_dict",
    "diff_configs",
    "dump_yaml",
    "load_any_config",
    "load_config",
    "override_config",
]
