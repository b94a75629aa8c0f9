"""The only package that reads configs to make modules and data sets."""

from resdet.factory.build import build as build
from resdet.factory.build import load_start_weights as load_start_weights
from resdet.factory.classification import build_classifier as build_classifier
from resdet.factory.classification import build_trained_classifier as build_trained_classifier
from resdet.factory.classification import load_classifier as load_classifier
from resdet.factory.classification_data import (
    build_classification_train_data as build_classification_train_data,
)
from resdet.factory.classification_data import (
    build_classification_val_data as build_classification_val_data,
)
from resdet.factory.detection import build_model as build_model
from resdet.factory.detection import build_trained as build_trained
from resdet.factory.detection_data import build_data as build_data
from resdet.factory.detection_data import build_train_data as build_train_data
from resdet.factory.detection_data import build_val_data as build_val_data
from resdet.factory.localization import build_localizer as build_localizer
from resdet.factory.localization import build_trained_localizer as build_trained_localizer
