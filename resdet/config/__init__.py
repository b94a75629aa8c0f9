"""The config: `schema` holds every option and default, `loading` fills it from YAML."""

from resdet.config.classification import ClassificationConfig
from resdet.config.detection import DetectionConfig
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

__all__ = [
    "AnyConfig",
    "ClassificationConfig",
    "ConfigError",
    "DetectionConfig",
    "config_from_dict",
    "config_to_dict",
    "diff_configs",
    "dump_yaml",
    "load_any_config",
    "load_config",
    "override_config",
]
