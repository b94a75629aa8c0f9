"""The config: detection.py, classification.py and localization.py hold every option, loading.py
fills them."""

from resdet.config.classification import ClassificationConfig as ClassificationConfig
from resdet.config.detection import DetectionConfig as DetectionConfig
from resdet.config.loading import ConfigError as ConfigError
from resdet.config.loading import config_from_dict as config_from_dict
from resdet.config.loading import config_to_dict as config_to_dict
from resdet.config.loading import diff_configs as diff_configs
from resdet.config.loading import dump_yaml as dump_yaml
from resdet.config.loading import load_any_config as load_any_config
from resdet.config.loading import load_config as load_config
from resdet.config.localization import LocalizationConfig as LocalizationConfig
