"""The config: `schema` holds every option and default, `loading` fills it from YAML."""

from resdet.config.loading import (
    ConfigError,
    config_from_dict,
    config_to_dict,
    diff_configs,
    dump_yaml,
    load_config,
    override_config,
)
from resdet.config.schema import Config

__all__ = [
    "Config",
    "ConfigError",
    "config_from_dict",
    "config_to_dict",
    "diff_configs",
    "dump_yaml",
    "load_config",
    "override_config",
]
